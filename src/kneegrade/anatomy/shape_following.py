r"""How the other points of an outline follow a point that a person moves: covariances from the shape model.

The displacements of the 74 points from a detected outline are modelled as normal with the covariance

$$ \Sigma_{ij} = k(i, j)\,\Big(\sum_k \sigma_k^2 M_k[i] M_k[j]^T + \tau^2 I\Big), \qquad
   k(i, j) = e^{-(i - j)^2 / 2 \ell^2} \text{ within a bone, else } 0, $$

with the modes $M_k$ and standard deviations $\sigma_k$ of the shape model. The kernel keeps a correction local, because
the rest of a detected outline is usually right. Points that were moved are fixed; the others move to their conditional
expectation, $d_j = \Sigma_{jP} \Sigma_{PP}^{-1} d_P$, for the displacements $d_P$ of the fixed points P.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.landmark_scheme import FEMUR, NUM_LANDMARKS
from kneegrade.anatomy.shape_model import ShapeModel, similarity

LOCAL_LENGTH: Final = 3.0  # ℓ, in landmarks
SMOOTH_SD_MM: Final = 3.0  # τ, of local changes that the modes do not contain
NOISE_SD_MM: Final = 0.05  # of a fixed point; keeps neighbours that contradict each other from oscillating

Array = NDArray[np.float64]


@cache
def following_covariance_mm2() -> Array:
    """(74, 74, 2, 2) covariance Σ in mm², in the frame of the shape model: lateral at negative x, y distal."""
    model = ShapeModel.load()
    weighted = model.modes * model.mode_sd_mm[:, None, None]  # (K, 74, 2)
    by_modes = np.einsum("kia,kjb->ijab", weighted, weighted)
    index = np.arange(NUM_LANDMARKS)
    kernel = np.exp(-((index[:, None] - index) ** 2) / (2 * LOCAL_LENGTH**2))
    kernel *= (index[:, None] < len(FEMUR)) == (index < len(FEMUR))
    return np.asarray(kernel[:, :, None, None] * (by_modes + SMOOTH_SD_MM**2 * np.eye(2)))


def followed(points_px: Array, fixed_px: Mapping[int, tuple[float, float]]) -> Array:
    """(74, 2) outline after points were moved: the fixed points at their places, the others as the model expects.

    Args:
        points_px: (74, 2) outline before, in pixels of the film.
        fixed_px: index → (x, y) of each point that was moved.
    """
    if not fixed_px:
        return points_px
    matrix = model_to_film(points_px)
    index = list(fixed_px)
    moved = np.array([fixed_px[i] for i in index]) - points_px[index]
    in_mm = (moved @ np.linalg.inv(matrix).T).reshape(-1)
    covariance = following_covariance_mm2()
    n = 2 * len(index)
    among = covariance[np.ix_(index, index)].transpose(0, 2, 1, 3).reshape(n, n) + NOISE_SD_MM**2 * np.eye(n)
    onto = covariance[:, index].transpose(0, 2, 1, 3).reshape(2 * NUM_LANDMARKS, n)
    displaced = (onto @ np.linalg.solve(among, in_mm)).reshape(NUM_LANDMARKS, 2)
    result = points_px + displaced @ matrix.T
    result[index] = [fixed_px[i] for i in index]
    return result


def model_to_film(points_px: Array) -> Array:
    """(2, 2) rotation, scale and mirroring from mm of the shape model to pixels of the film."""
    mirror = np.array([-1.0, 1.0]) if pose_of(points_px).mirrored else np.ones(2)
    seen = np.isfinite(points_px).all(1)
    matrix, _ = similarity(ShapeModel.load().mean()[seen], (points_px * mirror)[seen], np.ones(int(seen.sum())))
    return matrix * mirror[:, None]
