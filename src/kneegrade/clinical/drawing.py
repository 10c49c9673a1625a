"""Lines that results draw on a film: outlines of the bones, and calipers along which joint space is measured.

Points are (x, y) in pixels of the film, centre of the first pixel at (0, 0), as in `GradedKnee`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.clinical.film_points import BONES, calipers, outline_runs
from kneegrade.results import GradedKnee

Points = NDArray[np.float64]
COMPARTMENTS = ("medial", "lateral")


@dataclass(frozen=True, eq=False)
class KneeDrawing:
    """The lines of one knee.

    Attributes:
        outlines: stretches (N, 2), N >= 2, of the outlines of femur and tibia that lie on the film.
        calipers: "medial" and "lateral" → (2, 2) end points on femur and tibia; empty for a knee without grades.
    """

    outlines: tuple[Points, ...]
    calipers: Mapping[str, Points]

    @property
    def left(self) -> float:
        """The smallest x of the outlines."""
        return min(float(stretch[:, 0].min()) for stretch in self.outlines)


def knee_drawing(knee: GradedKnee) -> KneeDrawing | None:
    """The lines of a knee, or None if it has no landmarks on the film."""
    if knee.landmarks_px is None:
        return None
    points = np.asarray(knee.landmarks_px, dtype=np.float64)
    outlines = tuple(run for bone in BONES.values() for run in outline_runs(points, knee.landmarks_outside, bone))
    if not outlines:
        return None
    is_measured = knee.grades is not None and bool(np.isfinite(points).all())
    lines = calipers(points) if is_measured else {}
    return KneeDrawing(outlines, {where: lines[where] for where in COMPARTMENTS if where in lines})
