r"""`ShapeModel`: statistical shape model of the 74 landmarks of a knee, conditioned on its grades.

A shape in millimetres is linear in the seven grades plus normally distributed modes,

$$ s = C \cdot [1, g_1 … g_7] + \sum_k z_k \sigma_k M_k, \qquad z_k \sim N(0, 1), $$

with the origin at landmark 55, x medial positive and y distal positive. It is used to draw phantoms and to complete and
regularise detected landmarks. The coefficients are aggregates over knees of the Osteoarthritis Initiative
(`data/PROVENANCE.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.errors import UsageError
from kneegrade.schema import TARGET_NAMES

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShapeFit:
    """Shape of the model fitted to given points.

    Attributes:
        points: (74, 2) float64, the fitted shape in the frame of the given points.
        scores: (K,) float64, mode scores z in standard deviations.
        matrix: (2, 2) float64, rotation and scale (and mirroring, if requested) from millimetres to the frame of the
            given points.
        offset: (2,) float64, position of the origin of the model in that frame.
        residual: weighted root-mean-square distance between fitted and given points, in units of that frame.
    """

    points: Array
    scores: Array
    matrix: Array
    offset: Array
    residual: float


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Distribution of the 74 landmarks of a knee given its seven grades.

    Attributes:
        coefficients_mm: C, (8, 74, 2) float64, on [1, grades in the order of the schema].
        modes: M, (K, 74, 2) float64, orthonormal.
        mode_sd_mm: σ, (K,) float64.
        residual_sd_mm: (74, 2) float64, standard deviation of each coordinate that the modes do not explain.
    """

    coefficients_mm: Array
    modes: Array
    mode_sd_mm: Array
    residual_sd_mm: Array

    @classmethod
    @cache
    def load(cls) -> "ShapeModel":
        """Return the packaged model.

        Example:
            >>> ShapeModel.load().mean({"kl": 0}).shape
            (74, 2)
        """
        with (
            as_file(files("kneegrade").joinpath("data/knee_shape_model.npz")) as path,
            np.load(path, allow_pickle=False) as data,
        ):
            names = ("coefficients_mm", "modes", "mode_sd_mm", "residual_sd_mm")
            return cls(*(data[name].astype(np.float64) for name in names))

    def mean(self, grades: Mapping[str, int] | None = None) -> Array:
        """Return the mean shape for given grades, (74, 2) in mm; missing grades count as 0."""
        given = grades or {}
        regressors = np.array([1.0, *(given.get(name, 0) for name in TARGET_NAMES)])
        return np.tensordot(regressors, self.coefficients_mm, axes=1)

    def shape(self, grades: Mapping[str, int] | None, scores: Array) -> Array:
        """Return the shape for given grades and mode scores z (K,) in standard deviations, (74, 2) in mm."""
        weights = scores * self.mode_sd_mm[: len(scores)]
        return self.mean(grades) + np.tensordot(weights, self.modes[: len(scores)], axes=1)

    def sample(self, grades: Mapping[str, int], rng: np.random.Generator, limit: float = 2.5) -> Array:
        """Draw a shape for given grades, (74, 2) in mm, with mode scores clipped to ±`limit` standard deviations."""
        scores = np.clip(rng.standard_normal(len(self.mode_sd_mm)), -limit, limit)
        return self.shape(grades, scores)

    def fit(
        self,
        points: Array,
        weights: Array,
        *,
        mirrored: bool = False,
        noise_mm: float = 1.0,
        iterations: int = 6,
    ) -> ShapeFit:
        r"""Return the most probable shape given weighted points; it completes points of weight 0.

        Alternates between a weighted similarity transform (closed form) and a ridge regression of the mode scores,
        $\min_z \sum_i w_i \|p_i - s_i(z)\|^2 / \sigma^2 + \|z\|^2$, where $\sigma$ is `noise_mm`.

        Args:
            points: (74, 2) in any frame that a similarity transform relates to the model, such as pixels. Points of
                weight 0 are ignored and may be NaN.
            weights: (74,) ≥ 0; at least three of them positive.
            mirrored: True if lateral is at positive x of the given frame, as in an unmirrored left knee.
            noise_mm: expected error of a point of weight 1.
            iterations: number of alternations.

        Raises:
            UsageError: the shapes of the arrays are wrong, or fewer than three points have a positive weight.
        """
        target, weight = self._checked(points, weights)
        target = target * [-1.0, 1.0] if mirrored else target
        shape = mean = self.mean()
        scores = np.zeros(len(self.mode_sd_mm))
        regression, modes = self._regression(weight, noise_mm), self.modes.reshape(len(scores), -1)
        for _ in range(iterations):
            matrix, offset = similarity(shape, target, weight)
            aligned = (target - offset) @ np.linalg.inv(matrix).T
            scores = regression @ (aligned - mean).reshape(-1)
            shape = mean + ((scores * self.mode_sd_mm) @ modes).reshape(mean.shape)
        matrix, offset = similarity(shape, target, weight)
        fitted = shape @ matrix.T + offset
        residual = float(np.sqrt(weight @ ((fitted - target) ** 2).sum(axis=1) / weight.sum()))
        if mirrored:
            flip = np.array([-1.0, 1.0])
            fitted, matrix, offset = fitted * flip, matrix * flip[:, None], offset * flip
        return ShapeFit(fitted, scores, matrix, offset, residual)

    def _regression(self, weight: Array, noise_mm: float) -> Array:
        """Return the matrix (K, 148) of the ridge regression from aligned deviations in mm to mode scores."""
        design = rearrange(self.modes * self.mode_sd_mm[:, None, None], "k n xy -> k (n xy)")  # (K, 148)
        row_weight = np.repeat(weight, 2) / noise_mm**2  # (148,)
        normal = (design * row_weight) @ design.T + np.eye(len(design))  # (K, K)
        return np.asarray(np.linalg.solve(normal, design * row_weight), dtype=np.float64)

    @staticmethod
    def _checked(points: Array, weights: Array) -> tuple[Array, Array]:
        """Return points and weights as float64, with zeros for the points of weight 0."""
        target, weight = np.asarray(points, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        if target.shape != (NUM_LANDMARKS, 2) or weight.shape != (NUM_LANDMARKS,):
            raise UsageError(
                f"The shapes are {target.shape} for points and {weight.shape} for weights; expected (74, 2) and (74,)."
            )
        if (weight > 0).sum() < 3:
            raise UsageError(
                f"{int((weight > 0).sum())} landmarks have a positive weight; the fit needs at least three."
            )
        target = np.where(weight[:, None] > 0, target, 0.0)
        if not np.isfinite(target).all():
            raise UsageError("A landmark with a positive weight is not finite; set its weight to 0.")
        return target, weight


def similarity(source: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Return (matrix, offset) of the weighted least-squares similarity target ≈ source @ matrix.T + offset.

    The similarity is a rotation, one scale and a translation, without mirroring.

    Args:
        source: (N, 2).
        target: (N, 2).
        weights: (N,) ≥ 0.
    """
    share = weights / weights.sum()
    source_mean, target_mean = share @ source, share @ target
    centred, centred_target = source - source_mean, target - target_mean
    variance = (share * (centred**2).sum(axis=1)).sum()
    a = (share * (centred * centred_target).sum(axis=1)).sum() / variance
    b = (share * (centred[:, 0] * centred_target[:, 1] - centred[:, 1] * centred_target[:, 0])).sum() / variance
    matrix = np.array([[a, -b], [b, a]])
    return matrix, target_mean - matrix @ source_mean
