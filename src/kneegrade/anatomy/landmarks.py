r"""`Landmarks`: the 74 points of a knee with the covariance of their errors.

Landmarks are made from heat maps in two steps.

1. `landmarks_from_heatmaps`: the error covariance of each point. The network is trained on heat maps with a standard
   deviation of one cell, $c$; a predicted heat map with covariance $C$ is wider than that by $C - c^2 I$, the
   uncertainty of the network. The error of a point is modelled as normal with covariance

   $$ E = a\,(C - c^2 I)_+ + (b\,c)^2 I, $$

   where $a$ and $b$ were chosen so that predicted and actual errors on phantoms agree
   (`benchmarks/phantom_films.py`, "points").

2. `regularize_by_shape`: the fitted shape model moves a point $p$ towards its position $q$ in the fitted shape,
   according to the error covariance $S$ of the shape model and $E$ of the point,
   $p + E (S + E)^{-1} (q - p)$. Points that the image does not show are replaced by those of the fitted shape.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import ARTICULAR, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.shape_model import ShapeModel

EXCESS_VARIANCE_FACTOR = 0.2  # a
MIN_ERROR_CELLS = 0.3  # b
TOLERANCE = 0.02  # plateau widths (1.6 mm of a usual knee); a point within it counts as correct
UNSEEN_ERROR = 0.05  # plateau widths; error of a point that the shape model alone places
SHAPE_ERROR_MM = 3.0  # of the fitted shape, whose modes do not capture how narrow a joint space is
MIN_CONFIDENT_POINTS = 10  # articular landmarks needed to fit the shape model

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The 74 points of a knee, each bone from lateral to medial, in pixels of one image.

    Attributes:
        points_px: (74, 2) float64, (x, y).
        covariance_px2: (74, 2, 2) float64, covariance of the error of each point.
        seen: (74,) bool, False if the image does not show the point and the shape model placed it.
    """

    points_px: Array
    covariance_px2: Array
    seen: NDArray[np.bool_]

    @property
    def width_px(self) -> float:
        """Distance between the ends of the tibial plateau."""
        return float(np.linalg.norm(self.points_px[TIBIA_PLATEAU_MEDIAL] - self.points_px[TIBIA_PLATEAU_LATERAL]))

    @property
    def point_confidence(self) -> Array:
        """(74,) probability that a point is within 2 % of the plateau width of its true position; 0 if not seen."""
        variance = np.trace(self.covariance_px2, axis1=1, axis2=2)
        return np.where(self.seen, 1 - np.exp(-((TOLERANCE * self.width_px) ** 2) / variance), 0.0)

    @property
    def confidence(self) -> float:
        """Mean of `point_confidence` over the articular landmarks, 0 … 1."""
        return float(self.point_confidence[list(ARTICULAR)].mean())

    def moved(self, matrix: Array) -> "Landmarks":
        """Return the landmarks transformed by `matrix` (2, 3), which maps (x, y, 1) to the new (x, y)."""
        linear = matrix[:, :2]
        return Landmarks(self.points_px @ linear.T + matrix[:, 2], linear @ self.covariance_px2 @ linear.T, self.seen)


def landmarks_from_heatmaps(
    points_px: Array, covariance_px2: Array, seen: NDArray[np.bool_], cell_px: float
) -> Landmarks:
    """Return the landmarks of heat maps, before regularisation by the shape model.

    Args:
        points_px: (74, 2) expectation of each heat map.
        covariance_px2: (74, 2, 2) covariance C of each heat map.
        seen: (74,) bool, True if the point is inside the image.
        cell_px: c, pixels per cell of the heat map.
    """
    values, vectors = np.linalg.eigh(covariance_px2 - cell_px**2 * np.eye(2))
    values = EXCESS_VARIANCE_FACTOR * np.maximum(values, 0.0) + (MIN_ERROR_CELLS * cell_px) ** 2
    return Landmarks(points_px, np.einsum("nij,nj,nkj->nik", vectors, values, vectors), seen)


def regularize_by_shape(landmarks: Landmarks, shape_model: ShapeModel) -> Landmarks:
    """Return landmarks moved towards the fitted shape; points that are not seen are placed by it.

    Args:
        landmarks: in a frame where lateral is on the left and the femur on top. They are returned unchanged if fewer
            than `MIN_CONFIDENT_POINTS` articular landmarks have a confidence above 0.5.
        shape_model: fitted to the landmarks, weighted by their confidence.
    """
    weight = np.where(landmarks.seen, landmarks.point_confidence, 0.0)
    if (weight[list(ARTICULAR)] > 0.5).sum() < MIN_CONFIDENT_POINTS:
        return landmarks
    fit = shape_model.fit(landmarks.points_px, weight)
    variance_mm2 = shape_model.residual_sd_mm**2 + SHAPE_ERROR_MM**2
    S = np.einsum("ij,nj,kj->nik", fit.matrix, variance_mm2, fit.matrix)  # (74, 2, 2) in pixels²
    E = landmarks.covariance_px2
    gain = E @ np.linalg.inv(S + E)
    moved = landmarks.points_px + np.einsum("nij,nj->ni", gain, fit.points - landmarks.points_px)
    unseen = (UNSEEN_ERROR * landmarks.width_px) ** 2 * np.eye(2)
    seen = landmarks.seen[:, None]
    return Landmarks(np.where(seen, moved, fit.points), np.where(seen[:, None], E, unseen), landmarks.seen)
