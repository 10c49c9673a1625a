r"""Joint-space width from the two outlines.

In the frame of the plateau (x along landmarks 63 → 47, from the medial to the lateral edge, as a fraction of the
tibial width), the width at x is the distance, perpendicular to the plateau, between the femur's and the tibia's
articular outlines. `medial` is its minimum over 0.15 ≤ x ≤ 0.30, `lateral` its value at x = 0.825. The fixed
positions follow Duryea et al., "Trainable rule-based algorithm for the measurement of joint space width in digital
radiographic images of the knee", Medical Physics 2000, as used by the OAI (JSW150 … JSW300, LJSW700 … LJSW900).

The joint-line convergence angle is the angle between the tangent to the two femoral condyles and the line through the
floors of the two plateaus (least squares over `FLOORS`), positive where the joint opens laterally.

`measure`: joint space, convergence angle and tibial width of an outline, each with its standard error.

The outline is redrawn with errors as its landmarks have them, $p_n + E_n^{1/2} z_n$, where the standard normal $z$
are alike along a bone, $\mathrm{cov}(z_i, z_j) = e^{-|i - j| / \ell} I$; the error of a measure is what it scatters by
over the redrawn outlines, times a factor that makes errors on phantoms come out as stated
(`benchmarks/phantom_films.py`).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import (
    FEMUR,
    FEMUR_ARTICULAR,
    FEMUR_BODY,
    NUM_LANDMARKS,
    TIBIA_ARTICULAR,
    TIBIA_BODY,
    TIBIA_PLATEAU_LATERAL,
    TIBIA_PLATEAU_MEDIAL,
)
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.results import JointSpace, JointSpaceWidth, Measurement

MEDIAL_RANGE = (0.15, 0.30)
LATERAL_AT = 0.825
FIXED_AT = (*(0.15 + 0.025 * i for i in range(7)), *(0.70 + 0.025 * i for i in range(9)))
FLOORS = ((0.10, 0.35), (0.65, 0.90))  # of the plateaus, x

Points = NDArray[np.float64]


def gap_at(landmarks: Points, x: Points) -> Points:
    """Joint-space width at the fractions `x` (M,) of the tibial width from its medial edge, in the landmarks' unit.

    Overlapping outlines give 0.
    """
    width, femur, tibia = _curves(landmarks)
    gap = np.interp(x * width, *tibia) - np.interp(x * width, *femur)
    return np.maximum(gap, 0.0)


def gap_line(landmarks: Points, x: float) -> Points:
    """(2, 2) the ends on femur and tibia of the line along which the width at `x` is measured."""
    frame = _frame(landmarks)
    femur, tibia = (np.interp(x * frame[1], *curve) for curve in _curves(landmarks)[1:])
    origin, width, along, down = frame
    return origin + x * width * along + np.outer([femur, tibia], down)


def joint_space_width(landmarks_mm: Points) -> JointSpaceWidth:
    """Medial minimum and lateral width of an outline in millimetres (74, 2)."""
    medial = gap_at(landmarks_mm, np.linspace(*MEDIAL_RANGE, 61)).min()
    lateral = gap_at(landmarks_mm, np.array([LATERAL_AT]))[0]
    return JointSpaceWidth(float(medial), float(lateral))


def convergence_angle_deg(landmarks: Points) -> float:
    """Joint-line convergence angle of an outline (74, 2) in degrees, positive where the joint opens laterally."""
    width, femur, tibia = _curves(landmarks)
    floors = np.concatenate([np.linspace(*part, 26) for part in FLOORS]) * width
    plateau = np.polyfit(floors, np.interp(floors, *tibia), 1)[0]
    x, y = femur
    condyle = np.arange(len(x)) < np.clip(np.searchsorted(x, width / 2), 1, len(x) - 1)  # medial
    slope = plateau
    for _ in range(4):  # the lowest point of each condyle depends on the tangent, which it defines
        low = [np.flatnonzero(part)[np.argmax((y - slope * x)[part])] for part in (condyle, ~condyle)]
        slope = (y[low[1]] - y[low[0]]) / (x[low[1]] - x[low[0]])
    return float(np.degrees(np.arctan(plateau) - np.arctan(slope)))


def _frame(landmarks: Points) -> tuple[Points, float, Points, Points]:
    """The plateau's medial edge, its width, and unit vectors along it and away from the femur."""
    origin = landmarks[TIBIA_PLATEAU_MEDIAL]
    across = landmarks[TIBIA_PLATEAU_LATERAL] - origin
    width = float(np.hypot(*across))
    along = across / width
    down = np.array([-along[1], along[0]])
    if float((np.nanmean(landmarks[TIBIA_BODY], axis=0) - np.nanmean(landmarks[FEMUR_BODY], axis=0)) @ down) < 0:
        down = -down
    return origin, width, along, down


def _curves(landmarks: Points) -> tuple[float, tuple[Points, Points], tuple[Points, Points]]:
    """Tibial width, and the femur's and the tibia's articular curves: x from the medial edge, y away from the femur."""
    origin, width, along, down = _frame(landmarks)
    femur, tibia = (_curve(landmarks[list(part)] - origin, along, down) for part in (FEMUR_ARTICULAR, TIBIA_ARTICULAR))
    return width, femur, tibia


def _curve(points: Points, along: Points, down: Points) -> tuple[Points, Points]:
    x, y = points @ along, points @ down
    order = np.argsort(x)
    return x[order], y[order]


REDRAWN = 32
ALIKE = 3.0  # landmarks, l
GAP_FACTOR = 0.46  # stated error of a width over the scatter of the redrawn

Array = NDArray[np.float64]


def measure(outline: Landmarks, mm_per_px: float | None) -> JointSpace:
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
    medial, lateral, *fixed, angle, width = (Measurement(float(v), float(e)) for v, e in zip(value, error, strict=True))
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
