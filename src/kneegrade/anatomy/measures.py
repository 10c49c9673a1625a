r"""`measure`: joint space, convergence angle and tibial width of an outline, each with its standard error.

The outline is redrawn with errors as its landmarks have them, $p_n + E_n^{1/2} z_n$, where the standard normal $z$
are alike along a bone, $\mathrm{cov}(z_i, z_j) = e^{-|i - j| / \ell} I$; the error of a measure is what it scatters by
over the redrawn outlines, times a factor that makes errors on phantoms come out as stated
(`benchmarks/phantom_films.py`).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import (
    FIXED_AT,
    LATERAL_AT,
    MEDIAL_RANGE,
    convergence_angle_deg,
    gap_at,
)
from kneegrade.anatomy.landmarks import FEMUR, NUM_LANDMARKS, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.anatomy.outline import Outline
from kneegrade.results import JointSpace, Measured

REDRAWN = 32
ALIKE = 3.0  # landmarks, l
GAP_FACTOR = 0.46  # stated error of a width over the scatter of the redrawn

Array = NDArray[np.float64]


def measure(outline: Outline, mm_per_px: float | None) -> JointSpace:
    """What the outline of a knee measures.

    Args:
        outline: in pixels of the film.
        mm_per_px: the film's spacing where it is trusted, else None.
    """
    root = np.linalg.cholesky(outline.covariance_px2)
    redrawn = outline.points_px + np.einsum("nij,knj->kni", root, _noise())
    value = _measures(outline.points_px)
    error = np.std([_measures(points) for points in redrawn], axis=0)
    error[:-2] *= GAP_FACTOR
    medial, lateral, *fixed, angle, width = (Measured(float(v), float(e)) for v, e in zip(value, error, strict=True))
    at = {round(x, 3): width_there for x, width_there in zip(FIXED_AT, fixed, strict=True)}
    return JointSpace(medial, lateral, at, angle, width, mm_per_px)


def _measures(points: Array) -> Array:
    """Medial minimum, lateral width, widths at `FIXED_AT` (fractions of the tibial width); angle; tibial width."""
    width = float(np.linalg.norm(points[TIBIA_PLATEAU_MEDIAL] - points[TIBIA_PLATEAU_LATERAL]))
    x = np.concatenate([np.linspace(*MEDIAL_RANGE, 61), [LATERAL_AT], FIXED_AT])
    gap = gap_at(points, x) / width
    return np.array([gap[:61].min(), *gap[61:], convergence_angle_deg(points), width])


@cache
def _noise() -> Array:
    """(K, 74, 2) standard normal numbers, alike along each bone, the same at every call."""
    index = np.arange(NUM_LANDMARKS)
    alike = np.exp(-np.abs(index[:, None] - index) / ALIKE)
    alike *= (index[:, None] < len(FEMUR)) == (index < len(FEMUR))
    white = np.random.default_rng(0).standard_normal((REDRAWN, NUM_LANDMARKS, 2))
    noise: Array = np.einsum("nm,kmj->knj", np.linalg.cholesky(alike), white)
    return noise
