"""`sample_knee`: one synthetic knee drawn from (seed, index): grades, outline, joint space, osteophytes, appearance.

The outline is the 74 landmarks in mm: `sample_outline` draws a shape for the grades, wears down the plateaus and moves
the femur until the joint space has the widths drawn for the grades.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from json import loads
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import LATERAL_AT, MEDIAL_RANGE, gap_at, joint_space_width
from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UsageError
from kneegrade.measurements import JointSpaceWidth
from kneegrade.phantom.build import Build, Person, sample_build, sample_person
from kneegrade.phantom.contours import Spur
from kneegrade.phantom.implants import Implant, sample_implant
from kneegrade.phantom.prevalence import Prevalence, grades_at

Array = NDArray[np.float64]
Side = Literal["R", "L"]

SEVERITY_CORRELATION = 0.6  # between the severity scores of one person's two knees
SHAPE_CORRELATION = 0.8  # between the shape scores of one person's two knees
SCORE_LIMIT = 2.0  # of a shape score, in standard deviations
SPUR_AREA_MM2 = 24.0  # median area of a grade 3 osteophyte
MAX_TILT_DEG = 6.0
MAX_OVERLAP_MM = 0.4
ATTEMPTS = 16
LIFT_MM = 30.0  # lifting the femur by this distance opens any joint


@dataclass(frozen=True, eq=False)
class PhantomKnee:
    """One synthetic knee with its truth.

    Attributes:
        seed, index: identity of the knee; knees 2p (right) and 2p + 1 (left) belong to person p.
        side: "R" or "L"; the outline always has lateral on the left, and a left knee is mirrored when rendered.
        grades: the seven grades by name.
        outline_mm: (74, 2) float64 landmarks, origin near landmark 55, x medial positive, y distal positive.
        joint_space_mm: `joint_space_width` of the outline.
        drawn_joint_space_mm: the widths drawn from the table, which the outline was fitted to.
        attrition_mm: bone worn off the "medial" and "lateral" plateau, already part of the outline.
        spurs: osteophytes beyond the outline, one per osteophyte grade above 0.
        build: all other properties of its appearance.
        implant: metal in the knee; with an arthroplasty the grades cannot be read.
    """

    seed: int
    index: int
    side: Side
    grades: Mapping[str, int]
    outline_mm: Array
    joint_space_mm: JointSpaceWidth
    drawn_joint_space_mm: JointSpaceWidth
    attrition_mm: Mapping[str, float]
    spurs: tuple[Spur, ...]
    build: Build
    implant: Implant | None = None

    @property
    def gradable(self) -> bool:
        """Whether a reader could grade this knee; False for a replaced joint."""
        return self.implant is None or not self.implant.is_arthroplasty


def sample_knee(seed: int, index: int, prevalence: Prevalence = "natural", *, implants: float = 0.0) -> PhantomKnee:
    """Knee `index` of population `seed`, drawn independently of all other indices.

    The two knees of a person are similar: their severities have a correlation of 0.6, their shape scores of 0.8, and
    their soft tissue and bone composition are the same. The marginal distribution of each knee's grades is still that
    of the population.

    Args:
        seed: seed of the population.
        index: index of the knee; even indices are right knees.
        prevalence: population of the grades.
        implants: share of knees with metal; drawn separately, so that all other properties stay the same.

    Raises:
        UsageError: seed or index is out of range, or the population is unknown.

    Example:
        >>> sample_knee(1, 5).grades == sample_knee(1, 5).grades
        True
    """
    check_identity(seed, index)
    person = sample_person(seed, index // 2, len(ShapeModel.load().mode_sd_mm))
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    grades = sample_grades(person, prevalence, rng)
    spurs = tuple(
        _sample_spur(name, grade, rng) for name, grade in grades.items() if name.startswith("osteophyte") and grade > 0
    )
    outline, drawn, attrition = sample_outline(grades, person.shape_scores, rng)
    return PhantomKnee(
        seed=seed,
        index=index,
        side="L" if index % 2 else "R",
        grades=grades,
        outline_mm=outline,
        joint_space_mm=joint_space_width(outline),
        drawn_joint_space_mm=drawn,
        attrition_mm=attrition,
        spurs=spurs,
        build=sample_build(grades, outline, person, rng),
        implant=sample_implant(seed, index, outline) if implants and _uniform(seed, index, 8) < implants else None,
    )


def check_identity(seed: int, index: int) -> None:
    """Raise a UsageError unless 0 ≤ seed < 2³² and index ≥ 0; in this range all random streams are distinct."""
    if not (0 <= seed < 2**32 and index >= 0):
        raise UsageError(f"Seed {seed}, index {index}; expected a seed from 0 to 2³² - 1 and an index of 0 or more.")


def _uniform(seed: int, index: int, stream: int) -> float:
    """One uniform number of a knee, independent of the generator of its anatomy."""
    return float(np.random.default_rng(np.random.SeedSequence([seed, index, stream])).random())


def sample_grades(person: Person, prevalence: Prevalence, rng: np.random.Generator) -> dict[str, int]:
    """The seven grades of one of a person's knees; `rng` is the generator of that knee."""
    own = float(rng.standard_normal())
    severity = np.sqrt(SEVERITY_CORRELATION) * person.severity + np.sqrt(1 - SEVERITY_CORRELATION) * own
    return grades_at(float(severity), prevalence)


def _sample_spur(target: str, grade: int, rng: np.random.Generator) -> Spur:
    """One osteophyte: length 1–2, 2–4, 4–8 mm for grades 1, 2, 3; area about 1/3, 2/3 and 3/3 of a grade 3's."""
    length = float(rng.uniform(1.0, 2.0) * 2 ** (grade - 1))
    area = SPUR_AREA_MM2 * grade / 3 * float(np.exp(0.2 * rng.standard_normal()))
    sharpness = float(rng.uniform(0.7, 1.5))
    base = float(np.clip(area * (sharpness + 1) / length, 5.0, 16.0))
    lift = float(rng.normal(25.0 if "tibia" in target else -5.0, 15.0))
    return Spur(target, grade, length, base, lift, sharpness)


def sample_outline(
    grades: Mapping[str, int], person_scores: Array, rng: np.random.Generator
) -> tuple[Array, JointSpaceWidth, Mapping[str, float]]:
    """An outline (74, 2) mm whose joint space has the widths drawn for its grades.

    Up to `ATTEMPTS` shapes are drawn until one fits with a femoral tilt of at most `MAX_TILT_DEG`, an overlap of at
    most `MAX_OVERLAP_MM` and both widths within 0.05 mm; otherwise the shape with the smallest violation is used.

    Args:
        grades: the seven grades.
        person_scores: (K,) shape scores that both knees of a person share in part.
        rng: random generator of this knee.

    Returns:
        The outline, the drawn widths, and the bone worn off the "medial" and "lateral" plateau in mm.
    """
    model = ShapeModel.load()
    attrition = {side: _draw_attrition(grades[f"jsn_{side}"], rng) for side in ("medial", "lateral")}
    drawn = JointSpaceWidth(
        _draw_width(f"medial minimum JSW mm | JSN medial {grades['jsn_medial']}", rng),
        _draw_width(f"lateral JSW at x=0.825 mm | JSN lateral {grades['jsn_lateral']}", rng),
    )
    best, least = np.empty((0, 2)), np.inf
    for _ in range(ATTEMPTS):
        own = rng.standard_normal(len(model.mode_sd_mm))
        scores = np.sqrt(SHAPE_CORRELATION) * person_scores + np.sqrt(1 - SHAPE_CORRELATION) * own
        shape = _wear(model.shape(grades, np.clip(scores, -SCORE_LIMIT, SCORE_LIMIT)), attrition)
        motion = fit_joint_space(shape, drawn)
        outline = motion.apply(shape)
        overlap = -signed_gap_at(outline, np.linspace(0.07, 0.93, 173)).min()
        measured = joint_space_width(outline)
        error = max(abs(measured.medial - drawn.medial), abs(measured.lateral - drawn.lateral))
        violation = (
            max(abs(motion.tilt_deg) - MAX_TILT_DEG, 0.0)
            + max(overlap - MAX_OVERLAP_MM, 0.0)
            + 10 * max(error - 0.05, 0.0)
        )
        if violation < least:
            best, least = outline, violation
        if violation == 0.0:
            break
    return best, drawn, attrition


def _draw_attrition(jsn: int, rng: np.random.Generator) -> float:
    """Plateau bone loss in mm: none at JSN 0 and 1, in 15 % of knees at JSN 2 and in 50 % at JSN 3."""
    chance, depth = ((0.0, 0.0), (0.0, 0.0), (0.15, 1.5), (0.5, 3.0))[jsn]
    return float(rng.uniform(0.3, 1.0) * depth) if rng.random() < chance else 0.0


def _draw_width(row: str, rng: np.random.Generator) -> float:
    """One joint space width in mm, drawn from the percentiles of a row of the packaged table, with linear tails."""
    _, _, sd, *percentiles = _joint_space_table()[row]
    values = [max(0.0, percentiles[0] - 0.6 * sd), *percentiles, percentiles[-1] + 0.6 * sd]
    return float(np.interp(rng.random(), [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], values))


@cache
def _joint_space_table() -> dict[str, list[float]]:
    """The packaged table of joint space widths: row name → n, mean, sd, p05, p25, p50, p75, p95."""
    table: dict[str, Any] = loads(files("kneegrade").joinpath("data/joint_space_by_grade.json").read_text("utf-8"))
    return {name: row for name, row in table.items() if name != "columns"}


def _wear(outline: Array, attrition: Mapping[str, float]) -> Array:
    """The outline with a smooth dent of the given depth in each tibial plateau."""
    worn = outline.copy()
    for side, middle in (("lateral", 50.0), ("medial", 60.0)):
        number = np.arange(37, 74)
        worn[37:, 1] += attrition[side] * np.exp(-(((number - middle) / 2.2) ** 2))
    return worn


@dataclass(frozen=True, eq=False)
class FemurMotion:
    """A rigid motion of the femur: a proximal shift by `shift_mm`, and a rotation by `tilt_deg` about `pivot`."""

    pivot: Array
    shift_mm: float
    tilt_deg: float

    def apply(self, outline: Array) -> Array:
        """The outline (74, 2) with its landmarks 0–36 moved."""
        angle = np.deg2rad(self.tilt_deg)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = outline.copy()
        moved[:37] = (outline[:37] - self.pivot) @ rotation.T + self.pivot - [0.0, self.shift_mm]
        return moved


def fit_joint_space(outline: Array, target: JointSpaceWidth) -> FemurMotion:
    """The motion of the femur that gives an outline (74, 2) mm the target widths.

    Newton's method on the shift along the shaft and the tilt about the notch, with finite-difference derivatives.
    """
    pivot = outline[18].copy()
    state = np.zeros(2)

    def error_at(state: Array) -> Array:
        moved = FemurMotion(pivot, float(state[0]), float(state[1])).apply(outline)
        medial = signed_gap_at(moved, np.linspace(*MEDIAL_RANGE, 61)).min()
        lateral = signed_gap_at(moved, np.array([LATERAL_AT]))[0]
        return np.array([medial - target.medial, lateral - target.lateral])

    for _ in range(8):
        error = error_at(state)
        if np.abs(error).max() < 0.01:
            break
        slopes = [(error_at(state + step) - error) / 0.2 for step in 0.2 * np.eye(2)]
        state = state - np.clip(np.linalg.solve(np.stack(slopes, axis=1), error), -4.0, 4.0)
    return FemurMotion(pivot, float(state[0]), float(state[1]))


def signed_gap_at(outline: Array, x: Array) -> Array:
    """`gap_at` in mm, but negative where the bones overlap.

    The gap is measured with the femur lifted by `LIFT_MM`, which is then subtracted.
    """
    across = outline[TIBIA_PLATEAU_MEDIAL] - outline[TIBIA_PLATEAU_LATERAL]
    up = np.array([across[1], -across[0]]) / np.hypot(*across)  # medial is at positive x, so this points proximally
    lifted = outline.copy()
    lifted[:37] += LIFT_MM * up
    return gap_at(lifted, x) - LIFT_MM
