r"""Joint-space widths, joint-line convergence angle and tibial width, with standard errors.

Widths are measured in the frame of the tibial plateau: x runs along landmarks 63 → 47, from the medial to the lateral
edge, as a fraction of the tibial width. The width at x is the distance, perpendicular to the plateau, between the
articular outlines of femur and tibia. `medial` is the minimum over 0.15 ≤ x ≤ 0.30, `lateral` the value at x = 0.825.
The fixed positions follow Duryea et al., "Trainable rule-based algorithm for the measurement of joint space width in
digital radiographic images of the knee", Medical Physics 2000, as used by the OAI (JSW150 … JSW300, LJSW700 …
LJSW900).

The joint-line convergence angle is the angle between the common tangent of the two femoral condyles and the line
through the floors of the two plateaus (least squares over `PLATEAU_FLOORS`). It is positive if the joint opens
laterally.

Standard errors come from Monte Carlo sampling: the outline is redrawn `NUM_SAMPLES` times with landmark errors
$p_n + E_n^{1/2} z_n$, where the standard normal $z$ are correlated along each bone,
$\mathrm{cov}(z_i, z_j) = e^{-|i - j| / \ell} I$. The standard error of a measurement is its standard deviation over
these outlines; that of a joint-space width is also multiplied by `WIDTH_ERROR_FACTOR`, chosen so that predicted and
actual errors on phantoms agree (`benchmarks/phantom_films.py`).
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
from kneegrade.measurements import JointSpace, JointSpaceWidth, Measurement

# Positions x, as fractions of the tibial width from the medial edge of the plateau.
MEDIAL_RANGE = (0.15, 0.30)
LATERAL_AT = 0.825
FIXED_AT = (*(0.15 + 0.025 * i for i in range(7)), *(0.70 + 0.025 * i for i in range(9)))
PLATEAU_FLOORS = ((0.10, 0.35), (0.65, 0.90))

NUM_SAMPLES = 32
CORRELATION_LENGTH = 3.0  # ℓ, in landmarks
WIDTH_ERROR_FACTOR = 0.46

_MEDIAL_AT = np.linspace(*MEDIAL_RANGE, 61)
_TANGENT_ITERATIONS = 4

Points = NDArray[np.float64]
Curve = tuple[Points, Points]


def measure(landmarks: Landmarks, mm_per_px: float | None) -> JointSpace:
    """Return joint space, convergence angle and tibial width of a knee, each with its standard error.

    Args:
        landmarks: of the knee, in pixels of the film.
        mm_per_px: pixel spacing of the film, or None if there is none that can be trusted.
    """
    root = np.linalg.cholesky(landmarks.covariance_px2)
    samples = landmarks.points_px + np.einsum("nij,knj->kni", root, _correlated_noise())  # (K, 74, 2)
    values, *sampled = _measurements(np.concatenate([landmarks.points_px[None], samples]))
    errors = np.std(sampled, axis=0)
    errors[:-2] *= WIDTH_ERROR_FACTOR
    medial, lateral, *fixed, angle, tibial_width = (
        Measurement(float(value), float(error)) for value, error in zip(values, errors, strict=True)
    )
    at = {round(x, 3): width for x, width in zip(FIXED_AT, fixed, strict=True)}
    return JointSpace(medial, lateral, at, angle, tibial_width, mm_per_px)


def _measurements(outlines: Points) -> Points:
    """Return medial minimum, lateral width, widths at `FIXED_AT` (fractions of the tibial width), angle, tibial width.

    The angle is in degrees; the tibial width has the unit of the outlines.

    Args:
        outlines: (K, 74, 2).

    Returns:
        (K, 20).
    """
    width, femur, tibia = _articular_curves(outlines)
    x = np.concatenate([_MEDIAL_AT, [LATERAL_AT], FIXED_AT])
    gap = _gap(width, femur, tibia, x) / width
    minimum = gap[:, : len(_MEDIAL_AT)].min(1, keepdims=True)
    angle = _convergence_deg(width, femur, tibia)[:, None]
    return np.concatenate([minimum, gap[:, len(_MEDIAL_AT) :], angle, width], axis=1)


@cache
def _correlated_noise() -> Points:
    """Return (K, 74, 2) standard normal numbers, correlated along each bone; the same numbers at every call."""
    index = np.arange(NUM_LANDMARKS)
    correlation = np.exp(-np.abs(index[:, None] - index) / CORRELATION_LENGTH)
    correlation *= (index[:, None] < len(FEMUR)) == (index < len(FEMUR))
    white = np.random.default_rng(0).standard_normal((NUM_SAMPLES, NUM_LANDMARKS, 2))
    noise: Points = np.einsum("nm,kmj->knj", np.linalg.cholesky(correlation), white)
    return noise


def joint_space_width(landmarks_mm: Points) -> JointSpaceWidth:
    """Return the medial minimum and the lateral joint-space width in millimetres.

    Args:
        landmarks_mm: (74, 2) in millimetres.
    """
    medial = gap_at(landmarks_mm, _MEDIAL_AT).min()
    lateral = gap_at(landmarks_mm, np.array([LATERAL_AT]))[0]
    return JointSpaceWidth(float(medial), float(lateral))


def narrowest_medial_at(landmarks: Points) -> float:
    """Return the position of the medial minimum, as a fraction of the tibial width from the medial edge.

    Args:
        landmarks: (74, 2), in any unit.
    """
    return float(_MEDIAL_AT[np.argmin(gap_at(landmarks, _MEDIAL_AT))])


def gap_at(landmarks: Points, x: Points) -> Points:
    """Return the joint-space widths (M,) at given positions, in the unit of the landmarks.

    Args:
        landmarks: (74, 2).
        x: (M,) positions as fractions of the tibial width from the medial edge. Where the outlines overlap, the width
            is 0.
    """
    return np.asarray(_gap(*_articular_curves(landmarks[None]), x)[0])


def gap_line(landmarks: Points, x: float) -> Points:
    """Return (2, 2) the end points, on femur and tibia, of the line along which the width at `x` is measured."""
    origin, width, along, down = (part[0] for part in _plateau_frame(landmarks[None]))
    _, *curves = _articular_curves(landmarks[None])
    at = x * width[None]
    femur, tibia = (_interpolated(at, curve)[0] for curve in curves)
    return np.asarray(origin + x * width * along + np.outer([femur, tibia], down))


def convergence_angle_deg(landmarks: Points) -> float:
    """Return the joint-line convergence angle in degrees, positive if the joint opens laterally.

    Args:
        landmarks: (74, 2), in any unit.
    """
    return float(_convergence_deg(*_articular_curves(landmarks[None]))[0])


# K outlines at a time


def _gap(width: Points, femur: Curve, tibia: Curve, x: Points) -> Points:
    """Return the joint-space widths (K, M) at positions x (M,), 0 where the outlines overlap."""
    at = x * width
    return np.asarray(np.maximum(_interpolated(at, tibia) - _interpolated(at, femur), 0.0))


def _convergence_deg(width: Points, femur: Curve, tibia: Curve) -> Points:
    """Return the joint-line convergence angles (K,) in degrees."""
    floors = np.concatenate([np.linspace(*part, 26) for part in PLATEAU_FLOORS]) * width  # (K, 52)
    centred = floors - floors.mean(1, keepdims=True)
    tibial_slope = (centred * _interpolated(floors, tibia)).sum(1) / (centred**2).sum(1)
    x, y = femur
    middle = np.clip((x < width / 2).sum(1, keepdims=True), 1, x.shape[1] - 1)
    is_medial = np.arange(x.shape[1]) < middle  # (K, n)
    femoral_slope = tibial_slope
    for _ in range(_TANGENT_ITERATIONS):  # tangent points and slope depend on each other
        depth = y - femoral_slope[:, None] * x
        medial, lateral = (
            np.where(condyle, depth, -np.inf).argmax(1, keepdims=True) for condyle in (is_medial, ~is_medial)
        )
        rise, run = (np.take_along_axis(axis, lateral, 1) - np.take_along_axis(axis, medial, 1) for axis in (y, x))
        femoral_slope = (rise / run)[:, 0]
    return np.asarray(np.degrees(np.arctan(tibial_slope) - np.arctan(femoral_slope)))


def _interpolated(at: Points, curve: Curve) -> Points:
    """Return the heights (K, M) of K curves at positions (K, M), each as `numpy.interp`."""
    x, y = curve
    after = (x.T[:, :, None] <= at).sum(0)  # (K, M), number of points of the curve that are not beyond
    before = np.clip(after - 1, 0, x.shape[1] - 2)
    x0, x1, y0, y1 = (np.take_along_axis(axis, i, 1) for axis in (x, y) for i in (before, before + 1))
    slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1.0)
    inner = slope * (at - x0) + y0
    return np.where(after == 0, y[:, :1], np.where(after == x.shape[1], y[:, -1:], inner))


def _articular_curves(outlines: Points) -> tuple[Points, Curve, Curve]:
    """Return the tibial widths (K, 1) and the articular curves of femur and tibia in the frame of the plateau.

    A curve is (x, y), (K, n) each, sorted by x, with x from the medial edge and y away from the femur, in the unit of
    the outlines.

    Args:
        outlines: (K, 74, 2).
    """
    origin, width, along, down = _plateau_frame(outlines)
    femur, tibia = (
        _sorted_curve(outlines[:, list(part)] - origin[:, None], along, down)
        for part in (FEMUR_ARTICULAR, TIBIA_ARTICULAR)
    )
    return width, femur, tibia


def _sorted_curve(points: Points, along: Points, down: Points) -> Curve:
    x, y = ((points @ axis[:, :, None])[..., 0] for axis in (along, down))
    order = np.argsort(x, axis=1)
    return np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)


def _plateau_frame(outlines: Points) -> tuple[Points, Points, Points, Points]:
    """Return of each outline the medial edge of the plateau, its width, and unit vectors along it and to the tibia.

    Args:
        outlines: (K, 74, 2).

    Returns:
        (K, 2), (K, 1), (K, 2), (K, 2).
    """
    origin = outlines[:, TIBIA_PLATEAU_MEDIAL]
    plateau = outlines[:, TIBIA_PLATEAU_LATERAL] - origin
    width = np.hypot(plateau[:, :1], plateau[:, 1:])
    along = plateau / width
    down = np.stack([-along[:, 1], along[:, 0]], axis=1)
    femur, tibia = (np.nanmean(outlines[:, list(body)], axis=1) for body in (FEMUR_BODY, TIBIA_BODY))
    upwards = ((tibia - femur) * down).sum(1, keepdims=True) < 0
    return origin, width, along, np.where(upwards, -down, down)
