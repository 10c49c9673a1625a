r"""`Landmarks`: the 74 points of a knee with what is known of their errors, made from heat maps and shape model.

A heat map is trained to spread by one cell about a point that is certain; what it spreads beyond, $C - c^2 I$, is what
the network does not know. The error of a point is taken as normal with covariance

$$ E = a\,(C - c^2 I)_+ + (b\,c)^2 I, $$

where a and b make the errors on phantoms come out as stated (`benchmarks/phantom_films.py`, "points"). The shape model
draws a point towards its place in the fitted shape by as much as the model's own error $S$ and $E$ allow,
$p + E (S + E)^{-1} (q - p)$, and stands in for points that the picture does not show.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import ARTICULAR, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.shape_model import ShapeModel

SPREAD_FACTOR = 0.2  # a
LEAST_ERROR = 0.3  # b
TOLERANCE = 0.02  # plateau widths (1.6 mm of a usual knee): a point within it counts as right
UNSEEN_ERROR = 0.05  # plateau widths, of a point that the shape model alone places
FIT_ERROR_MM = 3.0  # of the fitted shape: its modes do not hold how narrowed a joint is
MIN_SHARP = 10  # articular points that the shape model needs to complete an outline

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of one knee, lateral → medial, in one frame of pixels.

    Attributes:
        points_px: (74, 2) float64 (x, y).
        covariance_px2: (74, 2, 2) float64, of their errors.
        seen: (74,) bool, False where the picture does not show the point and the shape model placed it.
    """

    points_px: Array
    covariance_px2: Array
    seen: NDArray[np.bool_]

    @property
    def width_px(self) -> float:
        """Distance of the plateau's ends."""
        return float(np.linalg.norm(self.points_px[TIBIA_PLATEAU_MEDIAL] - self.points_px[TIBIA_PLATEAU_LATERAL]))

    @property
    def point_confidence(self) -> Array:
        """(74,) probability that a point lies within 2 % of the plateau's width of its true place; 0 if not seen."""
        spread = np.trace(self.covariance_px2, axis1=1, axis2=2)
        return np.where(self.seen, 1 - np.exp(-((TOLERANCE * self.width_px) ** 2) / spread), 0.0)

    @property
    def confidence(self) -> float:
        """Mean of `point_confidence` over the articular points, 0 … 1."""
        return float(self.point_confidence[list(ARTICULAR)].mean())

    def moved(self, matrix: Array) -> "Landmarks":
        """The same outline in a frame that (x, y, 1) is taken to by `matrix` (2, 3)."""
        turn = matrix[:, :2]
        return Landmarks(self.points_px @ turn.T + matrix[:, 2], turn @ self.covariance_px2 @ turn.T, self.seen)


def landmarks_from_heatmaps(points_px: Array, spread_px2: Array, seen: NDArray[np.bool_], cell_px: float) -> Landmarks:
    """The outline that heat maps show, before the shape model.

    Args:
        points_px: (74, 2) their expectations.
        spread_px2: (74, 2, 2) their covariances.
        seen: (74,) the point lies on the picture.
        cell_px: c, pixels per cell.
    """
    value, axes = np.linalg.eigh(spread_px2 - cell_px**2 * np.eye(2))
    value = SPREAD_FACTOR * np.maximum(value, 0.0) + (LEAST_ERROR * cell_px) ** 2
    return Landmarks(points_px, np.einsum("nij,nj,nkj->nik", axes, value, axes), seen)


def regularize_by_shape(outline: Landmarks, shape: ShapeModel) -> Landmarks:
    """The outline drawn towards the shape model, which also places what is not seen.

    Args:
        outline: in a frame where lateral lies on the left and the femur on top. Left as it is where fewer than
            `MIN_SHARP` articular points are likely to be right.
        shape: the model.
    """
    weight = np.where(outline.seen, outline.point_confidence, 0.0)
    if (weight[list(ARTICULAR)] > 0.5).sum() < MIN_SHARP:
        return outline
    fit = shape.fit(outline.points_px, weight)
    residual = shape.residual_sd_mm**2 + FIT_ERROR_MM**2
    own = np.einsum("ij,nj,kj->nik", fit.matrix, residual, fit.matrix)  # S, in the outline's frame
    pull = outline.covariance_px2 @ np.linalg.inv(own + outline.covariance_px2)
    drawn = outline.points_px + np.einsum("nij,nj->ni", pull, fit.points - outline.points_px)
    unseen = (UNSEEN_ERROR * outline.width_px) ** 2 * np.eye(2)
    seen = outline.seen[:, None]
    return Landmarks(
        np.where(seen, drawn, fit.points), np.where(seen[:, None], outline.covariance_px2, unseen), outline.seen
    )
