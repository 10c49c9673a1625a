"""Result types: findings, graded knees, graded radiographs and the report of a run.

Plain frozen dataclasses that depend on the schema alone. Every report format is written from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.measurements import JointSpace, JointSpaceWidth

Side = Literal["R", "L", "unknown"]
UNCERTAIN_SET_SIZE = 3  # a prediction set of this size or larger makes a grade uncertain
FEMUR: Final = slice(0, 37)  # rows of the 74 landmarks, each bone from lateral to medial
TIBIA: Final = slice(37, 74)
MORE_KNEES: Final = "more_knees"  # code of the warning that a picture shows more knees than were graded


@dataclass(frozen=True)
class Finding:
    """Information for the reader of a report.

    Attributes:
        code: stable, machine-readable name of the kind of finding.
        message: one or two sentences for a person, without patient data.
    """

    code: str
    message: str


UNCERTAIN_GRADE = Finding(
    "open_grade", "At least one grade is uncertain: its prediction set has three or more values. Grade it by eye."
)


@dataclass(frozen=True)
class GradeResult:
    """One grade of a knee.

    Attributes:
        grade: the reported grade.
        probabilities: calibrated probability of each class; they sum to 1.
        prediction_set: consecutive grades, including `grade`, that contain the true grade with probability
            `Report.set_level` in knees like those of the calibration, and wider in a knee with findings of quality
            control; None if the weights have no prediction sets.
        study: the same grade on the scale of the study's readers, if the weights were calibrated to a site's reader
            and the above is on the scale of that reader; else None.
    """

    grade: int
    probabilities: tuple[float, ...]
    prediction_set: tuple[int, ...] | None = None
    study: "GradeResult | None" = None

    @property
    def study_grade(self) -> int:
        """The grade on the scale of the study's readers, which the network's logits and the evidence refer to."""
        return self.grade if self.study is None else self.study.grade


@dataclass(frozen=True)
class Quality:
    """Quality control of a knee: similarity to the knees that the network was trained for.

    Attributes:
        score: 0 … 1; a share s of normal knees has a score of about s or less.
        findings: unusual properties of the knee. They do not refuse it, except for certain metal.
        reason: reason not to grade the knee (certain metal, or a refusal before quality control), or None.
    """

    score: float
    findings: tuple[Finding, ...] = ()
    reason: Finding | None = None


@dataclass(frozen=True)
class Coherence:
    """Consistency of the seven grades with each other, before and after decoding.

    Attributes:
        log_probability: g(P) (paper, Eq. 3) of the network's own probabilities P, the softmax of its logits before
            calibration and decoding.
        decoding_shift: change of the grades by calibration and decoding: sum over the seven grades of |reported grade −
            most probable grade of P|.
        findings: rules that the reported grades violate, and reported grades that are not the most probable ones.
    """

    log_probability: float
    decoding_shift: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class EvidenceTerms:
    """Terms of one class-centred logit: femur + tibia + region + constant = logit.

    Attributes:
        femur: sum of the contributions of the 37 landmarks of the femur.
        tibia: sum of the contributions of the 37 landmarks of the tibia.
        region: contribution of the mean of the feature map; 0 if the network has no global branch.
        constant: the same for every knee: bias and contribution of the mean features of the training set.
    """

    femur: float
    tibia: float
    region: float
    constant: float

    @property
    def logit(self) -> float:
        """The network's logit minus its mean over the classes, before calibration and decoding."""
        return self.femur + self.tibia + self.region + self.constant


@dataclass(frozen=True, eq=False)
class Evidence:
    """Exact additive decomposition of the network's logits, and the crop that the report shows.

    For each grade, the sum of the contributions over the landmarks, plus `region_term`, plus `constant`, is the
    network's class-centred logits (the logits minus their mean over the classes). Calibration and decoding are applied
    afterwards and are not part of the sum.

    Attributes:
        roi: (S, S) uint8, the crop that the network read, lateral on the left of the image, bone bright.
        landmarks_roi_px: (74, 2) float64, (x, y) in pixels of `roi`, centre of the first pixel at (0, 0).
        landmark_visible: (74,) bool, False if a landmark is outside the image and was not read.
        contributions: grade name → (74, classes) float64, contribution of each landmark to each class-centred logit,
            relative to the mean features of the training set.
        region_term: grade name → (classes,) float64, contribution of the mean of the feature map (the global branch),
            relative to that of the training set; zeros if the network has no global branch.
        constant: grade name → (classes,) float64, the same for every knee: class-centred bias and contribution of the
            mean features of the training set.
    """

    roi: NDArray[np.uint8]
    landmarks_roi_px: NDArray[np.float64]
    landmark_visible: NDArray[np.bool_]
    contributions: Mapping[str, NDArray[np.float64]]
    region_term: Mapping[str, NDArray[np.float64]]
    constant: Mapping[str, NDArray[np.float64]]

    def terms(self, name: str, grade: int) -> EvidenceTerms:
        """Return the terms of the logit of one class.

        Args:
            name: of the grade, for example "kl".
            grade: the class.

        Raises:
            KeyError: no evidence for a grade of this name.
        """
        column = self.contributions[name][:, grade]
        return EvidenceTerms(
            femur=float(column[FEMUR].sum()),
            tibia=float(column[TIBIA].sum()),
            region=float(self.region_term[name][grade]),
            constant=float(self.constant[name][grade]),
        )


@dataclass(frozen=True, eq=False)
class GradedKnee:
    """One knee of a radiograph.

    Attributes:
        side: side of the patient's body.
        reason: reason not to grade the knee, or None.
        grades: the seven grades by name, in the order of the schema; None if the knee is not gradable.
        coherence: consistency of the seven grades, or None.
        joint_space: widths and angle; None for a knee without grades or with unsure landmarks.
        landmarks_px: (74, 2) float64, (x, y) in pixels of the source film, centre of the first pixel at (0, 0).
        landmark_confidence: 0 … 1; mean of `point_confidence` over the joint surfaces, times the probability that this
            is a knee in a frontal view (1 for landmarks provided by the user).
        point_confidence: (74,) probability that a landmark is within 2 % of the tibial width of its true position.
        landmarks_outside: indices of landmarks outside the image, which the shape model placed.
        side_confidence: probability, 0.5 … 1, of the side that the anatomy indicates; 0.5 if a side marker contradicts.
        evidence: decomposition of the logits, or None.
        quality: result of the quality control. For a knee refused before it, the score is 0 and the reason is the
            finding. None if the weights have no quality control.
    """

    side: Side
    reason: Finding | None = None
    grades: Mapping[str, GradeResult] | None = None
    coherence: Coherence | None = None
    joint_space: JointSpace | None = None
    landmarks_px: NDArray[np.float64] | None = None
    landmark_confidence: float = 0.0
    point_confidence: NDArray[np.float64] | None = None
    landmarks_outside: tuple[int, ...] = ()
    side_confidence: float | None = None
    evidence: Evidence | None = None
    quality: Quality | None = None

    @property
    def abstain(self) -> bool:
        """True if a reader should grade the knee: it has no grades, is unusual, or has an uncertain grade."""
        return self.grades is None or bool(self.doubts)

    @property
    def doubts(self) -> tuple[Finding, ...]:
        """Reasons why a reader should check a graded knee; empty for a knee that is not graded."""
        if self.grades is None:
            return ()
        uncertain = any(len(grade.prediction_set or ()) >= UNCERTAIN_SET_SIZE for grade in self.grades.values())
        return (*(self.quality.findings if self.quality else ()), *((UNCERTAIN_GRADE,) if uncertain else ()))

    @property
    def status(self) -> Literal["graded", "not_gradable"]:
        """State of the knee: "graded" if it has grades, else "not_gradable"."""
        return "graded" if self.grades is not None else "not_gradable"

    @property
    def joint_space_width_mm(self) -> JointSpaceWidth | None:
        """Joint-space widths in millimetres, or None without a trusted spacing."""
        return None if self.joint_space is None else self.joint_space.width_mm


@dataclass(frozen=True)
class GradedRadiograph:
    """One input file: its knees, or the reason why there are none.

    Attributes:
        source: path of the file relative to the input folder or archive or, of several inputs, to the nearest folder
            that contains them all.
        knees: detected knees, from left to right for a viewer to whom the femur is on top.
        reason: reason why there are no knees, or None.
        warnings: findings about the film as a whole.
        failed: True if the file could not be read; a readable film without a gradable knee has not failed.
        sha256: SHA-256 of the file in hexadecimal digits; None if it could not be read, or the input was no file.
    """

    source: str
    knees: tuple[GradedKnee, ...] = ()
    reason: Finding | None = None
    warnings: tuple[Finding, ...] = ()
    failed: bool = False
    sha256: str | None = None

    @property
    def status(self) -> Literal["graded", "not_gradable", "failed"]:
        """State: "failed" if the file could not be read, "graded" if any knee has grades, else "not_gradable"."""
        if self.failed:
            return "failed"
        return "graded" if any(knee.status == "graded" for knee in self.knees) else "not_gradable"

    @property
    def has_more_knees(self) -> bool:
        """True if more knees were seen on the picture than `knees` has."""
        return any(warning.code == MORE_KNEES for warning in self.warnings)


@dataclass(frozen=True, eq=False)
class AuditedKnee:
    """A knee whose human labels should be reviewed.

    Attributes:
        name: of the knee in the file of labels.
        labels: grade name → grade as read; missing grades are absent.
        score: natural logarithm of the odds of the most probable alternative against the most unusual label.
        suspect: name of the grade with that label, or None.
        expected: most probable value of that grade given the other labels, or the value a network predicts; or None.
        findings: inconsistencies of the labels.
        crop: (S, S) uint8 picture of the knee, lateral on the left, or None.
    """

    name: str
    labels: Mapping[str, int]
    score: float
    suspect: str | None
    expected: int | None
    findings: tuple[Finding, ...]
    crop: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class WeightsIdentity:
    """Identity of the weights that graded.

    Attributes:
        name: in the registry of weights.
        sha256: of the safetensors file.
        learnt_from: one sentence about the training data, or None.
    """

    name: str
    sha256: str
    learnt_from: str | None = None


@dataclass(frozen=True)
class SiteReader:
    """A site that the grades are calibrated to: the scale of its reader, or the study's scale at its prevalences.

    Attributes:
        name: of the site.
        knees: number of knees that the maps were fitted on, labelled unless `maps` are corrections of prevalences.
        maps: grade name → family of its map from the study's scale; other grades are as the study's readers give them.
            "bias" is a correction of prevalences without labels: nobody at the site has read knees.
    """

    name: str
    knees: int
    maps: Mapping[str, str]

    @property
    def labelled(self) -> bool:
        """True if a reader of the site graded the knees; False for a correction of prevalences."""
        return "bias" not in self.maps.values()


@dataclass(frozen=True)
class Report:
    """Result of one run.

    Attributes:
        radiographs: in the order of the input.
        weights: that graded.
        version: of kneegrade.
        set_level: probability with which a prediction set contains the true grade; None without prediction sets.
        limits: statements on the permitted use.
        site: that the grades are calibrated to; None: they are as the readers of the training study give them.
    """

    radiographs: tuple[GradedRadiograph, ...]
    weights: WeightsIdentity
    version: str
    set_level: float | None = None
    limits: tuple[str, ...] = field(
        default=("Research use only. Not a medical device; not for diagnosis or treatment decisions.",)
    )
    site: SiteReader | None = None

    @property
    def all_graded(self) -> bool:
        """True if there is at least one radiograph and every knee of every radiograph is graded."""
        return bool(self.radiographs) and all(
            radiograph.status == "graded"
            and all(knee.status == "graded" for knee in radiograph.knees)
            and not radiograph.has_more_knees
            for radiograph in self.radiographs
        )
