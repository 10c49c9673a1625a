"""`sample_knee`: one synthetic knee, drawn from (seed, index) alone: grades, outline, joint space, spurs, build."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from json import loads
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import LATERAL_AT, MEDIAL_RANGE, gap_at, joint_space_width
from kneegrade.anatomy.landmarks import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.phantom.contours import ShaftShape, Spur
from kneegrade.phantom.grades import Prevalence, sample_grades
from kneegrade.results import JointSpaceWidth

Array = NDArray[np.float64]

MAX_TILT_DEG = 6.0
MAX_OVERLAP_MM = 0.4
ATTEMPTS = 16
LIFT_MM = 30.0  # opens any drawn joint


@dataclass(frozen=True)
class Build:
    """What a knee looks like apart from its grades (lengths in mm, angles in degrees, the rest relative to 1).

    Attributes:
        femur_shaft, tibia_shaft: how the shafts go on beyond the landmarks.
        fibula_head: centre of its head from landmark 45; `fibula_head_half`, `fibula_shaft_half`: half-widths.
        patella: centre x, centre y, half-width, half-height, thickness.
        bone_volume_fraction: mineral share of cancellous bone.
        cortex: thickness of all cortices; texture: strength of trabecular texture.
        sclerosis_medial, sclerosis_lateral: extra subchondral bone under the plateaus.
        rim: distance of the second (posterior or anterior) plateau line; scar: strength of growth-plate scars.
        leg_half_width, fat: half-width of the leg at the joint and thickness of its fat layer.
        thigh, calf: how much wider than at the joint the leg becomes.
    """

    femur_shaft: ShaftShape
    tibia_shaft: ShaftShape
    fibula_head: tuple[float, float]
    fibula_head_half: float
    fibula_shaft_half: float
    patella: tuple[float, float, float, float, float]
    bone_volume_fraction: float
    cortex: float
    texture: float
    sclerosis_medial: float
    sclerosis_lateral: float
    rim: float
    scar: float
    leg_half_width: float
    fat: float
    thigh: float
    calf: float


@dataclass(frozen=True, eq=False)
class PhantomKnee:
    """One synthetic knee with its truth.

    Attributes:
        seed, index: what it was drawn from.
        side: "R" or "L"; the outline is always lateral left, a left knee is mirrored when it is drawn.
        grades: the seven grades by name.
        outline_mm: (74, 2) float64, origin near landmark 55, x medial +, y distal +.
        joint_space_mm: `joint_space_width` of the outline; `drawn_joint_space_mm`: what the table's draw asked for.
        spurs: osteophytes drawn beside the outline, none where the grade is 0.
        build: everything else.
    """

    seed: int
    index: int
    side: Literal["R", "L"]
    grades: Mapping[str, int]
    outline_mm: Array
    joint_space_mm: JointSpaceWidth
    drawn_joint_space_mm: JointSpaceWidth
    spurs: tuple[Spur, ...]
    build: Build


def sample_knee(seed: int, index: int, prevalence: Prevalence = "natural") -> PhantomKnee:
    """Draw knee `index` of population `seed`; no other knee is needed for it.

    Example:
        >>> sample_knee(1, 5).grades == sample_knee(1, 5).grades
        True
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    grades = sample_grades(rng, prevalence)
    outline, drawn = _sample_outline(grades, rng)
    side: Literal["R", "L"] = "R" if rng.random() < 0.5 else "L"
    spurs = tuple(
        _sample_spur(name, grade, rng) for name, grade in grades.items() if name.startswith("osteophyte") and grade > 0
    )
    build = _sample_build(grades, outline, rng)
    return PhantomKnee(seed, index, side, grades, outline, joint_space_width(outline), drawn, spurs, build)


def with_side(knee: PhantomKnee, side: Literal["R", "L"]) -> PhantomKnee:
    """The same knee on the other or the same side of the body."""
    return replace(knee, side=side)


def with_build(knee: PhantomKnee, other: Build) -> PhantomKnee:
    """The same knee in a leg of the other's soft tissue and bone substance, as the two legs of one person."""
    shared = ("bone_volume_fraction", "cortex", "texture", "leg_half_width", "fat", "thigh", "calf")
    return replace(knee, build=replace(knee.build, **{name: getattr(other, name) for name in shared}))


def signed_gap_at(outline: Array, x: Array) -> Array:
    """`gap_at` that goes below 0 where the outlines overlap: measured with the femur lifted, the lift taken off."""
    across = outline[TIBIA_PLATEAU_MEDIAL] - outline[TIBIA_PLATEAU_LATERAL]
    up = np.array([across[1], -across[0]]) / np.hypot(*across)  # medial is at positive x, so this points proximally
    lifted = outline.copy()
    lifted[:37] += LIFT_MM * up
    return gap_at(lifted, x) - LIFT_MM


@cache
def _joint_space_table() -> dict[str, list[float]]:
    """The packaged table: row name → n, mean, sd, p05, p25, p50, p75, p95."""
    table: dict[str, Any] = loads(files("kneegrade").joinpath("data/joint_space_by_grade.json").read_text("utf-8"))
    return {name: row for name, row in table.items() if name != "columns"}


def _draw_width(row: str, rng: np.random.Generator) -> float:
    """One width in mm from a row of the table, by its percentiles with linear tails."""
    _, _, sd, *marks = _joint_space_table()[row]
    ends = [max(0.0, marks[0] - 0.6 * sd), *marks, marks[-1] + 0.6 * sd]
    return float(np.interp(rng.random(), [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], ends))


def _sample_outline(grades: Mapping[str, int], rng: np.random.Generator) -> tuple[Array, JointSpaceWidth]:
    """Draw an outline whose joint space is what was drawn for its grades, and that draw."""
    model = ShapeModel.load()
    for _ in range(ATTEMPTS):
        drawn = JointSpaceWidth(
            _draw_width(f"medial minimum JSW mm | JSN medial {grades['jsn_medial']}", rng),
            _draw_width(f"lateral JSW at x=0.825 mm | JSN lateral {grades['jsn_lateral']}", rng),
        )
        shape = model.sample(grades, rng, limit=2.0)
        outline, tilt = set_joint_space(shape, drawn)
        overlap = -signed_gap_at(outline, np.linspace(0.07, 0.93, 173)).min()
        if abs(tilt) <= MAX_TILT_DEG and overlap < MAX_OVERLAP_MM:
            break
    return outline, drawn


def set_joint_space(outline: Array, wanted: JointSpaceWidth) -> tuple[Array, float]:
    """The outline with its femur moved and tilted so that both widths are as wanted, and the tilt in degrees.

    Newton's method on (shift along the shaft, tilt about the notch), derivatives by difference.
    """
    pivot = outline[18].copy()
    state = np.zeros(2)
    for _ in range(8):
        error = _width_error(outline, pivot, state, wanted)
        if np.abs(error).max() < 0.01:
            break
        slopes = [(_width_error(outline, pivot, state + step, wanted) - error) / 0.2 for step in 0.2 * np.eye(2)]
        state = state - np.clip(np.linalg.solve(np.stack(slopes, axis=1), error), -4.0, 4.0)
    return _move_femur(outline, pivot, state), float(state[1])


def _width_error(outline: Array, pivot: Array, state: Array, wanted: JointSpaceWidth) -> Array:
    """Measured minus wanted widths (2,) mm after moving the femur."""
    moved = _move_femur(outline, pivot, state)
    medial = signed_gap_at(moved, np.linspace(*MEDIAL_RANGE, 61)).min()
    lateral = signed_gap_at(moved, np.array([LATERAL_AT]))[0]
    return np.array([medial - wanted.medial, lateral - wanted.lateral])


def _move_femur(outline: Array, pivot: Array, state: Array) -> Array:
    """Outline with landmarks 0–36 shifted by state[0] mm proximally and turned by state[1] degrees."""
    angle = np.deg2rad(state[1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = outline.copy()
    moved[:37] = (outline[:37] - pivot) @ turn.T + pivot - [0.0, state[0]]
    return moved


def _sample_spur(target: str, grade: int, rng: np.random.Generator) -> Spur:
    """Draw one spur: length 1–2, 2–4, 4–8 mm, area about 1/3, 2/3 and all of a grade 3's."""
    length = float(rng.uniform(1.0, 2.0) * 2 ** (grade - 1))
    area = 24.0 * grade / 3 * float(np.exp(0.2 * rng.standard_normal()))
    sharpness = float(rng.uniform(0.7, 1.5))
    base = float(np.clip(area * (sharpness + 1) / length, 5.0, 16.0))
    lift = float(rng.normal(25.0 if "tibia" in target else -5.0, 15.0))
    return Spur(target, grade, length, base, lift, sharpness)


def _sample_build(grades: Mapping[str, int], outline: Array, rng: np.random.Generator) -> Build:
    """Draw everything that no grade names, scaled with the size of the bones."""
    size = float(np.hypot(*(outline[TIBIA_PLATEAU_MEDIAL] - outline[TIBIA_PLATEAU_LATERAL]))) / 80.0
    notch = outline[18]
    stout = float(np.clip(rng.gamma(4.0, 0.25), 0.25, 2.6))  # 1 = median; soft tissue from thin to obese
    return Build(
        femur_shaft=ShaftShape(float(rng.uniform(12.5, 16.0)) * size, float(rng.uniform(0.06, 0.18)), 34.0 * size),
        tibia_shaft=ShaftShape(float(rng.uniform(11.5, 14.5)) * size, float(rng.uniform(-0.03, 0.05)), 38.0 * size),
        fibula_head=(float(rng.normal(1.5, 3.5)), float(rng.normal(3.0, 4.0))),
        fibula_head_half=float(rng.uniform(10.0, 13.5)) * size,
        fibula_shaft_half=float(rng.uniform(5.5, 7.5)) * size,
        patella=(
            float(notch[0] + rng.normal(-3.0, 5.0)),
            float(notch[1] + rng.normal(-24.0, 9.0)),
            float(rng.uniform(20.0, 24.0)) * size,
            float(rng.uniform(19.0, 24.0)) * size,
            float(rng.uniform(14.0, 22.0)),
        ),
        bone_volume_fraction=float(rng.uniform(0.10, 0.24)),
        cortex=float(rng.uniform(0.7, 1.35)),
        texture=float(rng.uniform(0.05, 0.16)),
        sclerosis_medial=float(grades["jsn_medial"] * rng.uniform(0.2, 0.7) + rng.uniform(0.2, 0.8)),
        sclerosis_lateral=float(grades["jsn_lateral"] * rng.uniform(0.2, 0.7) + rng.uniform(0.0, 0.5)),
        rim=float(rng.uniform(1.5, 6.0)),
        scar=float(rng.uniform(0.0, 1.0)),
        leg_half_width=(50.0 + 11.0 * stout) * size + float(rng.normal(0, 2.0)),
        fat=3.0 + 8.0 * stout,
        thigh=float(rng.uniform(1.1, 1.25)) + 0.12 * stout,
        calf=float(rng.uniform(0.92, 1.12)),
    )
