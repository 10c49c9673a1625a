"""`Knee`: one knee of a radiograph, found and brought into the normalised orientation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.roi import RoiFrame
from kneegrade.results import Side


@dataclass(frozen=True, eq=False)
class Knee:
    """One knee as the network sees it.

    Attributes:
        side: of the patient's body; "unknown" where tag, position and anatomy disagree.
        side_confidence: probability of the anatomy's call, 0.5 … 1.
        landmarks_px: (74, 2) float64 (x, y) in pixels of the source film.
        landmark_confidence: 0 … 1, of the knee as a whole.
        roi: (S, S) float32 in [0, 1], lateral on the left, bone bright, padding 0.
        inside: (S, S) bool, False where the film ends.
        roi_landmarks_px: (74, 2) float64 in pixels of `roi`.
        visible: (74,) bool, False for a landmark outside the region or the film.
        on_film_share: share of the articular landmarks that lie on the film, 0 … 1.
        frame: from region to source.
    """

    side: Side
    side_confidence: float
    landmarks_px: NDArray[np.float64]
    landmark_confidence: float
    roi: NDArray[np.float32]
    inside: NDArray[np.bool_]
    roi_landmarks_px: NDArray[np.float64]
    visible: NDArray[np.bool_]
    on_film_share: float
    frame: RoiFrame


def points_inside(points_px: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N,) bool: the point (x, y) lies on a picture of `shape` (H, W); False where it is NaN."""
    with np.errstate(invalid="ignore"):
        across = (points_px[:, 0] >= 0) & (points_px[:, 0] <= shape[1] - 1)
        return across & (points_px[:, 1] >= 0) & (points_px[:, 1] <= shape[0] - 1)
