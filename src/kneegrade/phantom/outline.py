"""Outlines of 74 points: shape by grade, worn plateaus, and a joint space of a drawn width."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from json import loads
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import LATERAL_AT, MEDIAL_RANGE, gap_at, joint_space_width
from kneegrade.anatomy.landmarks import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.results import JointSpaceWidth

Array = NDArray[np.float64]

MAX_TILT_DEG = 6.0
MAX_OVERLAP_MM = 0.4
ATTEMPTS = 16
LIFT_MM = 30.0  # opens any drawn joint
SCORE_LIMIT = 2.0  # of a shape mode, in standard deviations
SHAPE_CORRELATION = 0.8  # correlation of the shape scores of one person's two knees


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


def sample_outline(
    grades: Mapping[str, int], person_scores: Array, rng: np.random.Generator
) -> tuple[Array, JointSpaceWidth, Mapping[str, float]]:
    """Draw an outline (74, 2) mm whose joint space is what was drawn for its grades.

    Args:
        grades: the seven grades.
        person_scores: (K,) shape scores that both knees of a person share in part.
        rng: of this knee alone.

    Returns:
        Outline, drawn widths, and millimetres of bone worn off the plateaus ("medial", "lateral").
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
        move = fit_joint_space(shape, drawn)
        outline = move.of(shape)
        overlap = -signed_gap_at(outline, np.linspace(0.07, 0.93, 173)).min()
        found = joint_space_width(outline)
        miss = max(abs(found.medial - drawn.medial), abs(found.lateral - drawn.lateral))
        strain = (
            max(abs(move.tilt_deg) - MAX_TILT_DEG, 0.0)
            + max(overlap - MAX_OVERLAP_MM, 0.0)
            + 10 * max(miss - 0.05, 0.0)
        )
        if strain < least:
            best, least = outline, strain
        if strain == 0.0:
            break
    return best, drawn, attrition


def _draw_attrition(jsn: int, rng: np.random.Generator) -> float:
    """Millimetres of plateau lost: none below grade 2, sometimes there, often at grade 3."""
    chance, depth = ((0.0, 0.0), (0.0, 0.0), (0.15, 1.5), (0.5, 3.0))[jsn]
    return float(rng.uniform(0.3, 1.0) * depth) if rng.random() < chance else 0.0


def _wear(outline: Array, attrition: Mapping[str, float]) -> Array:
    """The outline with its tibial plateaus pressed down by a smooth dent of the given depth."""
    worn = outline.copy()
    for side, middle in (("lateral", 50.0), ("medial", 60.0)):
        number = np.arange(37, 74)
        worn[37:, 1] += attrition[side] * np.exp(-(((number - middle) / 2.2) ** 2))
    return worn


@dataclass(frozen=True, eq=False)
class FemurMove:
    """A rigid motion of the femur: proximally by `shift_mm`, then turned by `tilt_deg` about `pivot`."""

    pivot: Array
    shift_mm: float
    tilt_deg: float

    def of(self, outline: Array) -> Array:
        """The outline (74, 2) with its landmarks 0–36 moved."""
        angle = np.deg2rad(self.tilt_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = outline.copy()
        moved[:37] = (outline[:37] - self.pivot) @ turn.T + self.pivot - [0.0, self.shift_mm]
        return moved


def fit_joint_space(outline: Array, wanted: JointSpaceWidth) -> FemurMove:
    """The motion of the femur that gives an outline (74, 2) mm both wanted widths.

    Newton's method on (shift along the shaft, tilt about the notch), derivatives by difference.
    """
    pivot = outline[18].copy()
    state = np.zeros(2)

    def error_at(where: Array) -> Array:
        moved = FemurMove(pivot, float(where[0]), float(where[1])).of(outline)
        medial = signed_gap_at(moved, np.linspace(*MEDIAL_RANGE, 61)).min()
        lateral = signed_gap_at(moved, np.array([LATERAL_AT]))[0]
        return np.array([medial - wanted.medial, lateral - wanted.lateral])

    for _ in range(8):
        error = error_at(state)
        if np.abs(error).max() < 0.01:
            break
        slopes = [(error_at(state + step) - error) / 0.2 for step in 0.2 * np.eye(2)]
        state = state - np.clip(np.linalg.solve(np.stack(slopes, axis=1), error), -4.0, 4.0)
    return FemurMove(pivot, float(state[0]), float(state[1]))
