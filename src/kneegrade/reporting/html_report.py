"""`report.html`: one self-contained page for people, with pictures and the evidence for each grade.

What the page shows of a report, worked out in Python so that the templates only place it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from kneegrade.files import replacing
from kneegrade.reporting.pages import Picture, environment, landmarks_read, picture_of, policy, resource
from kneegrade.reporting.report_labels import (
    LANDMARK_CONFIDENCE,
    RESEARCH_USE,
    SHORT_LABELS,
    SIDE_WORDS,
    STATUS_WORDS,
    printable,
    reason_of,
    width_words,
)
from kneegrade.results import Evidence, Finding, GradedKnee, GradedRadiograph, GradeResult, Report
from kneegrade.schema import KL_MEANING, OARSI_MEANING, TARGETS, Target

_DIGITS: Final = 4


@dataclass(frozen=True)
class ClassCell:
    """One class of one grade: its probability, whether it is the grade given, and whether it is in the set."""

    grade: int
    probability: float
    given: bool
    held: bool

    @property
    def percent(self) -> str:
        """The probability as people read it: never "0" or "100" for what is neither."""
        return percent(self.probability)


@dataclass(frozen=True)
class Reading:
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
        given, held = self.result.grade, self.result.prediction_set or ()
        return [ClassCell(i, value, i == given, i in held) for i, value in enumerate(self.result.probabilities)]


@dataclass(frozen=True)
class Fact:
    """A line of what was measured: its name, the value with its standard error, and what it is."""

    name: str
    value: str
    aside: str


@dataclass(frozen=True)
class KneeView:
    """One knee on the page; `anchor` is unique within it."""

    anchor: str
    knee: GradedKnee

    @property
    def title(self) -> str:
        """Side in words."""
        return SIDE_WORDS[self.knee.side]

    @property
    def reason(self) -> Finding | None:
        """Why there are no grades."""
        return reason_of(self.knee)

    @cached_property
    def readings(self) -> list[Reading]:
        """The seven grades in the schema's order, none for a knee that was refused."""
        grades = self.knee.grades
        return [] if grades is None else [Reading(target, grades[target.name]) for target in TARGETS]

    @property
    def probability_kl_2_or_more(self) -> str:
        """Probability of the usual radiographic definition of osteoarthritis."""
        return percent(sum(self.readings[0].result.probabilities[2:]))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the seven grades say about each other, and why they are left to a reader."""
        coherence = self.knee.coherence.findings if self.knee.coherence is not None else ()
        return (*self.knee.doubts, *coherence)

    @property
    def joint_space(self) -> list[Fact]:
        """Widths in mm, or in per cent of the tibial width without a trusted spacing; and the angle."""
        space = self.knee.joint_space
        if space is None:
            return []
        angle = space.convergence_deg
        return [
            Fact("Joint space, medial", width_words(space, space.medial), "smallest width"),
            Fact("Joint space, lateral", width_words(space, space.lateral), "at 0.825 of the tibia’s width"),
            Fact("Convergence angle", f"{angle.value:.1f} ± {angle.error:.1f}°".replace("-", "−"), "open laterally: +"),
        ]

    @cached_property
    def picture(self) -> Picture | None:
        """The region with outlines and points."""
        return None if self.knee.evidence is None else picture_of(self.knee.evidence)

    @cached_property
    def shares(self) -> dict[str, dict[str, Any]]:
        """Grade name → what the points contribute to it, for the grades that have contributions."""
        evidence, grades = self.knee.evidence, self.knee.grades
        if evidence is None or grades is None:
            return {}
        known = [target.name for target in TARGETS if target.name in evidence.contributions]
        return {name: shares_of(evidence, name, grades[name].grade) for name in known}


@dataclass(frozen=True)
class FilmView:
    """One radiograph on the page."""

    radiograph: GradedRadiograph
    knees: tuple[KneeView, ...]

    @property
    def source(self) -> str:
        """Name of the file, safe to show."""
        return printable(self.radiograph.source)

    @property
    def status(self) -> str:
        """Status in words."""
        return STATUS_WORDS[self.radiograph.status]

    @property
    def reason(self) -> Finding | None:
        """Why there are no grades."""
        return reason_of(self.radiograph)


def films_of(report: Report) -> list[FilmView]:
    """The radiographs of `report` with anchors `k1-1`, `k1-2` … (film, knee) for their knees."""
    return [
        FilmView(radiograph, tuple(KneeView(f"k{film}-{i}", knee) for i, knee in enumerate(radiograph.knees, start=1)))
        for film, radiograph in enumerate(report.radiographs, start=1)
    ]


def counts_of(report: Report) -> Mapping[str, int]:
    """How many films and knees there are, and how many of them were graded, refused or unreadable."""
    knees = [knee for radiograph in report.radiographs for knee in radiograph.knees]
    graded = sum(knee.status == "graded" for knee in knees)
    bare = sum(radiograph.status == "not_gradable" and not radiograph.knees for radiograph in report.radiographs)
    return {
        "films": len(report.radiographs),
        "graded": graded,
        "not_gradable": len(knees) - graded + bare,
        "failed": sum(radiograph.failed for radiograph in report.radiographs),
    }


def shares_of(evidence: Evidence, name: str, grade: int) -> dict[str, Any]:
    """What the class-centred logit of `grade` is made of, ready for the page's script.

    `values` has one number per landmark drawn, in the order of `Picture.points`, None where this grade's head does
    not read the landmark (its contributions to all classes are exactly 0). `sum` holds the terms of
    femur + tibia + region + constant = logit, the first two over all 74 landmarks; `outside` is the part of these two
    that belongs to landmarks outside the picture.
    """
    contributions = evidence.contributions[name]  # (74, classes)
    column = contributions[:, grade]
    heard = np.any(contributions != 0.0, axis=1)
    drawn = landmarks_read(evidence)
    terms = evidence.terms(name, grade)
    total = {**asdict(terms), "logit": terms.logit, "outside": column[~drawn].sum()}
    return {
        "values": [round(float(column[i]), _DIGITS) if heard[i] else None for i in np.flatnonzero(drawn)],
        "sum": {term: round(float(value), _DIGITS) for term, value in total.items()},
    }


def percent(probability: float) -> str:
    """A probability in whole per cent, with "<1" and ">99" for what is nearly certain.

    Example:
        >>> percent(0.634), percent(0.001), percent(0.9999), percent(1.0)
        ('63', '<1', '>99', '100')
    """
    if 0.0 < probability < 0.005:
        return "<1"
    if 0.995 <= probability < 1.0:
        return ">99"
    return f"{100 * probability:.0f}"


MANY_KNEES: Final = 12  # from here on the summary has a filter


def write_html(report: Report, path: Path) -> None:
    """Writes the page to `path`: style, script and pictures inline, no network, strict content security policy.

    The page holds the pixels of the knees' regions, and with them whatever text is burned into the film there.

    Raises:
        UsageError: `path` cannot be written.
    """
    style, script = resource("report.css"), resource("report.js")
    page = environment().get_template("report.html.j2")
    with replacing(path) as stream:
        stream.writelines(
            page.generate(
                report=report,
                films=films_of(report),
                pairs=any(len(radiograph.knees) > 1 for radiograph in report.radiographs),
                counts=counts_of(report),
                style=style,
                script=script,
                policy=policy(style, script),
                research_use=RESEARCH_USE,
                landmark_confidence=LANDMARK_CONFIDENCE,
                targets=TARGETS,
                kl_meaning=KL_MEANING,
                oarsi_meaning=OARSI_MEANING,
                many_knees=MANY_KNEES,
            )
        )
