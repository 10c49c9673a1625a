r"""`ShapeModel`: the grade-conditioned 74-point outline of a knee, to draw from and to complete partial outlines.

A shape in millimetres is linear in the seven grades plus normally distributed modes,

$$ s = C \cdot [1, g_1 … g_7] + \sum_k z_k \sigma_k M_k, \qquad z_k \sim N(0, 1), $$

with the origin at landmark 55, x medial positive and y distal positive. The coefficients are aggregates over knees of
the Osteoarthritis Initiative (`data/PROVENANCE.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.errors import UsageError
from kneegrade.schema import TARGET_NAMES

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShapeFit:
    """A shape of the model laid over given points.

    Attributes:
        points: (74, 2) float64, the completed outline in the frame of the given points.
        scores: (K,) float64, mode scores z in standard deviations.
        matrix: (2, 2) float64, rotation times scale (and mirror, if asked for), frame ← millimetres.
        offset: (2,) float64, where landmark 55's mean position falls.
        residual: weighted root-mean-square distance of fitted and given points, in units of the frame.
    """

    points: Array
    scores: Array
    matrix: Array
    offset: Array
    residual: float


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Outline of a knee given its seven grades.

    Attributes:
        coefficients_mm: (8, 74, 2) float64 on [1, grades in the order of the schema].
        modes: (K, 74, 2) float64, orthonormal.
        mode_sd_mm: (K,) float64.
        residual_sd_mm: (74, 2) float64, what the modes leave unexplained per coordinate.
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
        """Return the mean outline for grades, (74, 2) mm; grades not given count as 0."""
        given = grades or {}
        regressors = np.array([1.0, *(given.get(name, 0) for name in TARGET_NAMES)])
        return np.tensordot(regressors, self.coefficients_mm, axes=1)

    def shape(self, grades: Mapping[str, int] | None, scores: Array) -> Array:
        """Return the outline for grades and mode scores z (K,) in standard deviations, (74, 2) mm."""
        weights = scores * self.mode_sd_mm[: len(scores)]
        return self.mean(grades) + np.tensordot(weights, self.modes[: len(scores)], axes=1)

    def sample(self, grades: Mapping[str, int], rng: np.random.Generator, limit: float = 2.5) -> Array:
        """Draw an outline for grades, (74, 2) mm, mode scores clipped to ±`limit` standard deviations."""
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
        r"""Return the most probable shape through weighted points, completing those of weight 0.

        Alternates a weighted similarity (closed form) with a ridge regression of the mode scores,
        $\min_z \sum_i w_i \|p_i - s_i(z)\|^2 / \sigma^2 + \|z\|^2$, $\sigma$ = `noise_mm`.

        Args:
            points: (74, 2), any similarity frame (for example pixels); values of weight 0 are ignored, even NaN.
            weights: (74,) ≥ 0; at least three points need a positive weight.
            mirrored: True where lateral lies at positive x of the given frame, as in an unmirrored left knee.
            noise_mm: expected error of a point of weight 1.
            iterations: rounds of the alternation.

        Raises:
            UsageError: shapes are wrong or fewer than three points carry weight.
        """
        target, weight = self._checked(points, weights)
        target = target * [-1.0, 1.0] if mirrored else target
        shape = mean = self.mean()
        scores = np.zeros(len(self.mode_sd_mm))
        for _ in range(iterations):
            matrix, offset = similarity(shape, target, weight)
            aligned = (target - offset) @ np.linalg.inv(matrix).T
            scores = self._scores(aligned - mean, weight, noise_mm)
            shape = mean + np.tensordot(scores * self.mode_sd_mm, self.modes, axes=1)
        matrix, offset = similarity(shape, target, weight)
        fitted = shape @ matrix.T + offset
        residual = float(np.sqrt(weight @ ((fitted - target) ** 2).sum(axis=1) / weight.sum()))
        if mirrored:
            flip = np.array([-1.0, 1.0])
            fitted, matrix, offset = fitted * flip, matrix * flip[:, None], offset * flip
        return ShapeFit(fitted, scores, matrix, offset, residual)

    def _scores(self, deviation_mm: Array, weight: Array, noise_mm: float) -> Array:
        """Ridge solution for the mode scores given aligned deviations (74, 2) mm."""
        design = (self.modes * self.mode_sd_mm[:, None, None]).reshape(len(self.modes), -1)  # (K, 148)
        row_weight = np.repeat(weight, 2) / noise_mm**2
        normal = (design * row_weight) @ design.T + np.eye(len(design))
        return np.asarray(np.linalg.solve(normal, (design * row_weight) @ deviation_mm.reshape(-1)), dtype=np.float64)

    @staticmethod
    def _checked(points: Array, weights: Array) -> tuple[Array, Array]:
        """Return finite float64 points and weights, or say what is wrong."""
        target, weight = np.asarray(points, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        if target.shape != (NUM_LANDMARKS, 2) or weight.shape != (NUM_LANDMARKS,):
            raise UsageError(
                f"points {target.shape} and weights {weight.shape} were given; (74, 2) and (74,) are expected."
            )
        if (weight > 0).sum() < 3:
            raise UsageError("Fewer than three landmarks carry weight; a similarity needs at least three.")
        target = np.where(weight[:, None] > 0, target, 0.0)
        if not np.isfinite(target).all():
            raise UsageError("A landmark of positive weight is not finite; give it weight 0.")
        return target, weight


def similarity(source: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Return (matrix, offset) of the weighted least-squares similarity target ≈ source @ matrix.T + offset.

    Rotation and one scale, no mirror. `source`, `target`: (N, 2); `weights`: (N,).
    """
    share = weights / weights.sum()
    source_mean, target_mean = share @ source, share @ target
    centred, aim = source - source_mean, target - target_mean
    power = (share * (centred**2).sum(axis=1)).sum()
    a = (share * (centred * aim).sum(axis=1)).sum() / power
    b = (share * (centred[:, 0] * aim[:, 1] - centred[:, 1] * aim[:, 0])).sum() / power
    matrix = np.array([[a, -b], [b, a]])
    return matrix, target_mean - matrix @ source_mean
