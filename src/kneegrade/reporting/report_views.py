"""What a report page shows of films, knees and grades, computed here so that the templates only lay it out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from kneegrade.reporting.html_pages import Picture, landmarks_read, picture_of
from kneegrade.reporting.report_labels import (
    SHORT_LABELS,
    SIDE_LABELS,
    STATUS_LABELS,
    format_width,
    printable,
    reason_of,
)
from kneegrade.results import Evidence, Finding, GradedKnee, GradedRadiograph, GradeResult, Report
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS, Target

_DIGITS: Final = 4


@dataclass(frozen=True)
class ClassCell:
    """One class of one grade.

    Attributes:
        grade: the class.
        probability: its calibrated probability.
        reported: whether it is the grade that is reported.
        in_set: whether it belongs to the prediction set.
    """

    grade: int
    probability: float
    reported: bool
    in_set: bool

    @property
    def percent(self) -> str:
        """The probability in per cent, never "0" or "100" for a value in between."""
        return percent(self.probability)


@dataclass(frozen=True)
class GradeRow:
    """One of the seven grades of a knee."""

    target: Target
    result: GradeResult

    @property
    def short(self) -> str:
        """Short label, for headings and the selector."""
        return SHORT_LABELS[self.target.name]

    @property
    def meaning(self) -> str:
        """The grade in a word."""
        return (KL_MEANING if self.target.name == "kl" else OARSI_MEANING)[self.result.grade]

    @property
    def cells(self) -> list[ClassCell]:
        """One cell per class."""
        grade, prediction_set = self.result.grade, self.result.prediction_set or ()
        return [
            ClassCell(i, value, i == grade, i in prediction_set) for i, value in enumerate(self.result.probabilities)
        ]


@dataclass(frozen=True)
class Fact:
    """A measurement: its name, its value with standard error, and an explanation."""

    name: str
    value: str
    explanation: str


@dataclass(frozen=True)
class KneeView:
    """One knee on the page; `anchor` is its unique id there."""

    anchor: str
    knee: GradedKnee

    @property
    def title(self) -> str:
        """Side in words."""
        return SIDE_LABELS[self.knee.side]

    @property
    def reason(self) -> Finding | None:
        """Why there are no grades."""
        return reason_of(self.knee)

    @cached_property
    def grades(self) -> list[GradeRow]:
        """The seven grades in the order of the schema; empty if the knee was not graded."""
        grades = self.knee.grades
        return [] if grades is None else [GradeRow(target, grades[target.name]) for target in TARGETS]

    @property
    def probability_kl_2_or_more(self) -> str:
        """Probability of the usual radiographic definition of osteoarthritis, in per cent."""
        return percent(sum(self.grades[0].result.probabilities[2:]))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Reasons why a reader should decide, and what is unusual about the combination of grades."""
        coherence = self.knee.coherence.findings if self.knee.coherence is not None else ()
        return (*self.knee.doubts, *coherence)

    @property
    def joint_space(self) -> list[Fact]:
        """Joint space widths (mm, or % of the tibial width without a trusted spacing) and convergence angle."""
        space = self.knee.joint_space
        if space is None:
            return []
        angle = space.convergence_deg
        angle_text = f"{angle.value:.1f} ± {angle.error:.1f}°".replace("-", "−")
        return [
            Fact("Joint space, medial", format_width(space, space.medial), "minimum width"),
            Fact("Joint space, lateral", format_width(space, space.lateral), "width at 0.825 of the tibia"),
            Fact("Convergence angle", angle_text, "positive if wider laterally"),
        ]

    @cached_property
    def picture(self) -> Picture | None:
        """The crop with outlines and points."""
        return None if self.knee.evidence is None else picture_of(self.knee.evidence)

    @cached_property
    def contributions(self) -> dict[str, dict[str, Any]]:
        """Name of a grade → contributions of the points to it (`contributions_to`), for the grades that have them."""
        evidence, grades = self.knee.evidence, self.knee.grades
        if evidence is None or grades is None:
            return {}
        known = [target.name for target in TARGETS if target.name in evidence.contributions]
        return {name: contributions_to(evidence, name, grades[name].study_grade) for name in known}


@dataclass(frozen=True)
class FilmView:
    """One radiograph on the page; `page` is the address of the page that shows its knees, "" for the same page."""

    radiograph: GradedRadiograph
    knees: tuple[KneeView, ...]
    page: str = ""

    @property
    def source(self) -> str:
        """Name of the file, safe to show."""
        return printable(self.radiograph.source)

    @property
    def status(self) -> str:
        """Status in words."""
        return STATUS_LABELS[self.radiograph.status]

    @property
    def reason(self) -> Finding | None:
        """Why there are no grades."""
        return reason_of(self.radiograph)


def film_views(report: Report) -> list[FilmView]:
    """The radiographs of `report`; their knees have the anchors `k1-1`, `k1-2` … (film, knee)."""
    return [
        FilmView(radiograph, tuple(KneeView(f"k{film}-{i}", knee) for i, knee in enumerate(radiograph.knees, start=1)))
        for film, radiograph in enumerate(report.radiographs, start=1)
    ]


def count_knees(report: Report) -> Mapping[str, int]:
    """Number of films, of graded knees, of knees (and films without knees) not gradable, and of failed files."""
    knees = [knee for radiograph in report.radiographs for knee in radiograph.knees]
    graded = sum(knee.status == "graded" for knee in knees)
    bare = sum(radiograph.status == "not_gradable" and not radiograph.knees for radiograph in report.radiographs)
    return {
        "films": len(report.radiographs),
        "graded": graded,
        "not_gradable": len(knees) - graded + bare,
        "failed": sum(radiograph.failed for radiograph in report.radiographs),
    }


def contributions_to(evidence: Evidence, name: str, grade: int) -> dict[str, Any]:
    """The terms of the class-centred logit of `grade`, in the form that the page's script reads.

    `values` has one number per drawn landmark, in the order of `Picture.points`; None if the head of this grade does
    not read the landmark (its contributions to all classes are exactly 0). `sum` has the terms of
    femur + tibia + region + constant = logit, where femur and tibia are sums over all 74 landmarks, and `outside`, the
    part of these two terms that comes from landmarks outside the picture.
    """
    contributions = evidence.contributions[name]  # (74, classes)
    column = contributions[:, grade]
    read_by_head = np.any(contributions != 0.0, axis=1)
    drawn = landmarks_read(evidence)
    terms = evidence.terms(name, grade)
    total = {**asdict(terms), "logit": terms.logit, "outside": column[~drawn].sum()}
    return {
        "values": [round(float(column[i]), _DIGITS) if read_by_head[i] else None for i in np.flatnonzero(drawn)],
        "sum": {term: round(float(value), _DIGITS) for term, value in total.items()},
    }


def percent(probability: float) -> str:
    """A probability in whole per cent, with "<1" and ">99" for nearly certain values.

    Example:
        >>> percent(0.634), percent(0.001), percent(0.9999), percent(1.0)
        ('63', '<1', '>99', '100')
    """
    if 0.0 < probability < 0.005:
        return "<1"
    if 0.995 <= probability < 1.0:
        return ">99"
    return f"{100 * probability:.0f}"
