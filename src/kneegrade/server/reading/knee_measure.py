"""Joint space of an outline that a reader corrected, with the lines along which it was measured."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy import Landmarks, measure
from kneegrade.anatomy.geometry import square_pixels_matrix
from kneegrade.anatomy.user_landmarks import MANUAL_ERROR
from kneegrade.clinical.film_points import calipers
from kneegrade.errors import UsageError
from kneegrade.measurements import JointSpace, Measurement

MIN_PLATEAU_PX = 5.0

Points = NDArray[np.float64]


def measured_outline(
    points_px: Points, mm_per_px: float | None, aspect: float = 1.0
) -> tuple[JointSpace, dict[str, Points]]:
    """The joint space with the error of points that people mark, and its lines in pixels of the film.

    Args:
        points_px: (74, 2) in pixels of the film.
        mm_per_px: pixel spacing, or None without a trusted one.
        aspect: factor by which the film is stretched horizontally.

    Raises:
        UsageError: the ends of the tibial plateau lie on each other.
    """
    matrix = square_pixels_matrix(aspect)
    square = points_px @ matrix[:, :2].T + matrix[:, 2]
    landmarks = Landmarks(square, np.zeros((len(square), 2, 2)), np.ones(len(square), dtype=bool))
    if not np.isfinite(square).all() or landmarks.width_px < MIN_PLATEAU_PX:
        raise UsageError("The ends of the tibial plateau lie on each other; move the landmarks back.")
    covariance = (MANUAL_ERROR * landmarks.width_px) ** 2 / 2 * np.tile(np.eye(2), (len(square), 1, 1))
    space = measure(Landmarks(square, covariance, landmarks.seen), mm_per_px)
    lines = {
        name: (line - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        for name, line in calipers(square).items()
        if name != "plateau"
    }
    return space, lines


def measure_answer(points_px: Points, mm_per_px: float | None, aspect: float = 1.0) -> dict[str, Any]:
    """`measured_outline` as JSON values."""
    space, lines = measured_outline(points_px, mm_per_px, aspect)
    return {
        "medial": _width(space, space.medial),
        "lateral": _width(space, space.lateral),
        "convergence_angle_deg": {"value": space.convergence_deg.value, "error": space.convergence_deg.error},
        "lines": {name: line.tolist() for name, line in lines.items()},
    }


def _width(space: JointSpace, width: Measurement) -> dict[str, float | None]:
    mm = space.mm(width)
    return {
        "fraction": width.value,
        "fraction_error": width.error,
        "mm": None if mm is None else mm.value,
        "mm_error": None if mm is None else mm.error,
    }
