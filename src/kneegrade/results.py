"""What comes out of grading: findings, graded knees, graded radiographs and the report of a run.

Plain frozen dataclasses that know nothing but the schema, so that every report format can be written from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["R", "L", "unknown"]
WIDE_SET = 3  # grades in a set that leave a knee open
FEMUR: Final = slice(0, 37)  # rows of the 74 landmarks, each bone from lateral to medial
TIBIA: Final = slice(37, 74)


@dataclass(frozen=True)
class Finding:
    """One thing a reader should know. `code` is stable; `message` is one sentence without patient data."""

    code: str
    message: str


OPEN = Finding("open_grade", "Of some grade three or more values remain possible.")


@dataclass(frozen=True)
class GradeResult:
    """One grade with its calibrated probabilities (one per class, summing to 1).

    `prediction_set` holds neighbouring grades, the one given among them, which together have the true one with the
    probability `Report.set_level` in knees like those that the weights were calibrated on; None where the weights bring
    no sets.
    """

    grade: int
    probabilities: tuple[float, ...]
    prediction_set: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Quality:
    """How much a knee is like those that the network may be believed on.

    Attributes:
        score: 0 … 1; about a share s of sound knees score s or less.
        findings: what is unusual.
        reason: why the knee is not to be graded, or None.
    """

    score: float
    findings: tuple[Finding, ...] = ()
    reason: Finding | None = None


@dataclass(frozen=True)
class Coherence:
    """How well the seven grades go together, before and after decoding.

    Attributes:
        log_probability: g(P) (paper, Eq. 3) of the network's own probabilities P, the softmax of its logits before
            calibration and decoding.
        decoding_shift: how far calibration and decoding moved the grades: sum over the seven grades of |grade given −
            most probable grade of P|.
        findings: rules that the grades given break, and grades given that are not their likeliest.
    """

    log_probability: float
    decoding_shift: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class JointSpaceWidth:
    """Joint space in millimetres in the plane of the stated spacing.

    `medial` is the minimum width of the medial compartment, `lateral` the width at x = 0.825 of the tibial width
    counted from the medial edge.
    """

    medial: float
    lateral: float


@dataclass(frozen=True)
class Measurement:
    """A value and its standard error, both in the same unit."""

    value: float
    error: float


@dataclass(frozen=True)
class JointSpace:
    """Joint space and what goes with it, each with the standard error that the landmarks' errors give it.

    Attributes:
        medial: minimum width over 0.15 ≤ x ≤ 0.30, as a fraction of the tibial width.
        lateral: width at x = 0.825, likewise.
        fixed: x → width there, likewise; x counts from the medial edge as a fraction of the tibial width.
        convergence_deg: joint-line convergence angle, positive where the joint opens laterally.
        tibial_width_px: distance of the plateau's ends in pixels of the film.
        mm_per_px: where the spacing is trusted, else None.
    """

    medial: Measurement
    lateral: Measurement
    fixed: Mapping[float, Measurement]
    convergence_deg: Measurement
    tibial_width_px: Measurement
    mm_per_px: float | None = None

    def mm(self, width: Measurement) -> Measurement | None:
        """A width in millimetres in the plane of the stated spacing, or None without one."""
        if self.mm_per_px is None:
            return None
        tibia_mm = self.tibial_width_px.value * self.mm_per_px
        return Measurement(width.value * tibia_mm, width.error * tibia_mm)

    @property
    def width_mm(self) -> JointSpaceWidth | None:
        """The two widths in millimetres, or None without a trusted spacing."""
        medial, lateral = self.mm(self.medial), self.mm(self.lateral)
        return JointSpaceWidth(medial.value, lateral.value) if medial and lateral else None


@dataclass(frozen=True)
class EvidenceTerms:
    """The terms that one class-centred logit is the sum of: femur + tibia + region + constant = logit.

    Attributes:
        femur: sum of the contributions of the femur's 37 landmarks.
        tibia: likewise of the tibia's.
        region: contribution of the mean of the feature map; 0 where the network has no global branch.
        constant: the same for every knee: bias, and the mean features of the training set.
    """

    femur: float
    tibia: float
    region: float
    constant: float

    @property
    def logit(self) -> float:
        """The network's logit less the mean over the classes, before calibration and decoding."""
        return self.femur + self.tibia + self.region + self.constant


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the network's logits are made of, and what the pictures of a report are drawn from.

    For each grade, the contributions summed over the landmarks, plus `region_term`, plus `constant`, are the network's
    class-centred logits (the logits less their mean over the classes). Calibration and decoding come after them and are
    no part of the sum.

    Attributes:
        roi: (S, S) uint8, the region the network read, lateral on the image's left, bone bright.
        landmarks_roi_px: (74, 2) float64, (x, y) in pixels of `roi`, first pixel's centre = (0, 0).
        landmark_visible: (74,) bool, False where a landmark lies outside the picture and was not read.
        contributions: grade name → (74, classes) float64, what each landmark adds to each class-centred logit,
            relative to the mean features of the training set.
        region_term: grade name → (classes,) float64, what the mean of the feature map (the global branch) adds,
            likewise; zeros where the network has no global branch.
        constant: grade name → (classes,) float64, the same for every knee: class-centred bias, and what the mean
            features of the training set add.
    """

    roi: NDArray[np.uint8]
    landmarks_roi_px: NDArray[np.float64]
    landmark_visible: NDArray[np.bool_]
    contributions: Mapping[str, NDArray[np.float64]]
    region_term: Mapping[str, NDArray[np.float64]]
    constant: Mapping[str, NDArray[np.float64]]

    def terms(self, name: str, grade: int) -> EvidenceTerms:
        """The terms of the logit of one class of one grade.

        Args:
            name: of the grade, such as "kl".
            grade: the class.

        Raises:
            KeyError: there is no evidence on a grade of this name.
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
    """One knee of a radiograph; `grades` is None where it is not gradable.

    Attributes:
        side: side of the patient's body.
        reason: why the knee is not gradable, else None.
        grades: the seven grades by name, in the order of the schema, or None.
        landmarks_px: (74, 2) float64 (x, y) in pixels of the source film, first pixel's centre = (0, 0), or None.
        landmark_confidence: 0 … 1, mean of `point_confidence` over the joint surfaces, times the probability that this
            is a knee seen from the front (1 for landmarks that the user brought).
        point_confidence: (74,) probability of each landmark to lie within 2 % of the tibial width of its true place.
        landmarks_outside: indices of landmarks that the picture does not show; the shape model placed them.
        side_confidence: 0.5 … 1, of the anatomy's own call of the side.
        joint_space: widths and angle, or None.
        evidence: what the logits are made of, or None.
        quality: from the weights' gate; score 0 and the reason as its finding for a knee refused before the gate; None
            where the weights bring no gate.
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
        """Whether a reader should decide alone: no grades, an unusual knee, or a set of `WIDE_SET` grades or more."""
        return self.grades is None or bool(self.doubts)

    @property
    def doubts(self) -> tuple[Finding, ...]:
        """Why a graded knee's grades are left to a reader; empty where they are not, and for a refused knee."""
        if self.grades is None:
            return ()
        wide = any(len(grade.prediction_set or ()) >= WIDE_SET for grade in self.grades.values())
        return (*(self.quality.findings if self.quality else ()), *((OPEN,) if wide else ()))

    @property
    def status(self) -> Literal["graded", "not_gradable"]:
        """`graded` exactly when there are grades."""
        return "graded" if self.grades is not None else "not_gradable"

    @property
    def joint_space_width_mm(self) -> JointSpaceWidth | None:
        """Joint space in millimetres, or None without a trusted spacing."""
        return None if self.joint_space is None else self.joint_space.width_mm


@dataclass(frozen=True)
class GradedRadiograph:
    """One input file: its knees, or the reason why there are none.

    `failed` is True when the file could not be read at all; a readable film without a gradable knee is not failed.
    """

    source: str
    knees: tuple[GradedKnee, ...] = ()
    reason: Finding | None = None
    warnings: tuple[Finding, ...] = ()
    failed: bool = False

    @property
    def status(self) -> Literal["graded", "not_gradable", "failed"]:
        """`graded` when at least one knee has grades."""
        if self.failed:
            return "failed"
        return "graded" if any(knee.status == "graded" for knee in self.knees) else "not_gradable"


@dataclass(frozen=True, eq=False)
class AuditedKnee:
    """A knee whose human labels are worth a second look.

    Attributes:
        name: how the labels' file calls it.
        labels: grade name → grade as read; those never read absent.
        score: how odd the oddest label is, natural logarithm of odds.
        suspect: name of that grade, or None.
        expected: what goes best with the other labels, or with a network's prediction.
        findings: what is odd, in words.
        region: (S, S) uint8 picture of the knee, lateral left, or None.
    """

    name: str
    labels: Mapping[str, int]
    score: float
    suspect: str | None
    expected: int | None
    findings: tuple[Finding, ...]
    region: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class WeightsIdentity:
    """Which weights graded: registry name, SHA-256 of the safetensors file, and in a sentence what they learnt from."""

    name: str
    sha256: str
    learnt_from: str | None = None


@dataclass(frozen=True)
class Report:
    """All radiographs of one run, in the order they were given; `set_level` is that of prediction sets, if any."""

    radiographs: tuple[GradedRadiograph, ...]
    weights: WeightsIdentity
    version: str
    set_level: float | None = None
    limits: tuple[str, ...] = field(
        default=("Research use only. Not a medical device; not for diagnosis or treatment decisions.",)
    )

    @property
    def all_graded(self) -> bool:
        """True when there are radiographs, every one is graded and no knee in it was refused."""
        return bool(self.radiographs) and all(
            radiograph.status == "graded" and all(knee.status == "graded" for knee in radiograph.knees)
            for radiograph in self.radiographs
        )
