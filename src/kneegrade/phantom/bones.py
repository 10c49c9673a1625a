"""The bones of one knee as arrays: contours with attributes along them, and depth tables over y.

A bone is a rounded plate. At a distance d inside its contour a ray crosses a thickness of D·sqrt(1 - (1 - d/R)²), where
R is the local rounding radius (an attribute of the contour) and D the local depth (a table over y). The cortex is the
space between an outer and an inner surface of this form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from kneegrade.phantom.contours import STEP_MM, Contour, bone_contour, fibula_contour
from kneegrade.phantom.phantom_knee import PhantomKnee

Array = NDArray[np.float64]

ATTRIBUTES = ("radius", "cortex", "density", "sclerosis", "line", "line_depth", "rim")
ATTRIBUTE_SMOOTHING_MM = 4.0
TABLE_Y_MM = np.arange(-340.0, 341.0, 2.0)
NEAR_STEP_MM, FAR_STEP_MM, FAR_MM = 0.8, 5.0, 75.0  # spacing of contour points for |y| below and above FAR_MM

# Relative variation of each attribute along a contour, and its length scale in mm.
UNEVENNESS = ((0.15, 8.0), (0.3, 6.0), (0.35, 6.0), (0.3, 8.0), (0.6, 5.0), (0.3, 8.0), (0.4, 6.0))


@dataclass(frozen=True, eq=False)
class Bone:
    """One bone.

    Attributes:
        points: (M, 2) float64 mm, the closed contour.
        attributes: (M, 7) in the order of `ATTRIBUTES`:
            radius: rounding radius in mm.
            cortex: cortical thickness in mm.
            density: mineral fraction of the cortex.
            sclerosis: relative increase of the mineral of the subchondral bone; decays with depth.
            line, line_depth: strength of a second, parallel line and its depth in mm.
            rim: extent in mm, beyond the contour, of a thinner anterior or posterior rim.
        depth: (341,) over `TABLE_Y_MM`, anteroposterior depth D in mm.
        wall: (341,) over `TABLE_Y_MM`, thickness of the anterior and posterior walls in mm.
    """

    points: Array
    attributes: Array
    depth: Array
    wall: Array


def bones_of(knee: PhantomKnee) -> tuple[Bone, Bone, Bone]:
    """Femur, tibia and fibula of a knee."""
    build, outline = knee.build, knee.outline_mm
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 11]))
    femur = bone_contour(outline, "femur", build.femur_shaft, [spur for spur in knee.spurs if "femur" in spur.target])
    tibia = bone_contour(outline, "tibia", build.tibia_shaft, [spur for spur in knee.spurs if "tibia" in spur.target])
    fibula = fibula_contour(outline, build.fibula_head, build.fibula_head_half, build.fibula_shaft_half)
    femur, tibia, fibula = (_roughened(contour, build.roughness_mm, rng) for contour in (femur, tibia, fibula))
    return _femur(knee, femur, rng), _tibia(knee, tibia, rng), _fibula(knee, fibula, rng)


def _roughened(contour: Contour, strength_mm: float, rng: np.random.Generator) -> Contour:
    """The contour with small bumps and dents about 6 mm long, as on real margins; joint surfaces are not changed."""
    u = contour.station
    surface = np.maximum(_soft_indicator(u, 11.0, 25.0), _soft_indicator(u, 46.0, 64.0))
    displacement = (_waves(len(u), 2.5, rng) * strength_mm * (1 - surface))[:, None]
    tangent = np.roll(contour.points, -3, axis=0) - np.roll(contour.points, 3, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    return Contour(contour.points + displacement * normal, contour.station)


def _soft_indicator(u: Array, first: float, last: float) -> Array:
    """Weights that are 1 from `first` to `last`, and fall linearly to 0 within one unit outside."""
    return np.asarray(np.clip(np.minimum(u - first, last - u) + 1, 0.0, 1.0))


def _waves(count: int, smoothing_mm: float, rng: np.random.Generator) -> Array:
    """Smooth noise (count,) along a contour, with unit standard deviation, clipped at ±2."""
    knots = max(8, int(2 * count * STEP_MM / smoothing_mm))
    smooth = gaussian_filter1d(rng.standard_normal(knots), 2.0, mode="wrap") * np.sqrt(4 * np.sqrt(np.pi))
    waves = np.interp(np.linspace(0, knots, count, endpoint=False), np.arange(knots), smooth)
    return np.asarray(np.clip(waves, -2.0, 2.0))


def _along(station: Array, knots: Sequence[tuple[float, float]]) -> Array:
    """Values along a contour: linear between (u, value) knots, then smoothed to hide the knots."""
    u, value = zip(*knots, strict=True)
    return np.asarray(gaussian_filter1d(np.interp(station, u, value), ATTRIBUTE_SMOOTHING_MM / STEP_MM, mode="nearest"))


def _over_height(knots: Sequence[tuple[float, float]]) -> Array:
    """Values over `TABLE_Y_MM`: linear between (y, value) knots, then smoothed."""
    y, value = zip(*knots, strict=True)
    return np.asarray(gaussian_filter1d(np.interp(TABLE_Y_MM, y, value), 2.0, mode="nearest"))


def _bone(
    contour: Contour, attributes: Sequence[Array | float], depth: Array, wall: Array, rng: np.random.Generator
) -> Bone:
    """A bone with random variation of its attributes; its contour is resampled coarsely on the straight shafts."""
    points = contour.points
    count = len(points)
    uneven = [
        np.asarray(value) * np.maximum(1 + share * _waves(count, scale, rng), 0.2)
        for value, (share, scale) in zip(attributes, UNEVENNESS, strict=True)
    ]
    step = np.where(np.abs(points[1:, 1]) > FAR_MM, FAR_STEP_MM, NEAR_STEP_MM)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T) / step)])
    positions = np.arange(0.0, arc[-1])
    columns = [np.interp(positions, arc, column) for column in (*points.T, *uneven)]
    return Bone(np.stack(columns[:2], axis=1), np.stack(columns[2:], axis=1), depth, wall)


def _femur(knee: PhantomKnee, contour: Contour, rng: np.random.Generator) -> Bone:
    """The femur: strongly rounded condyles with a thin subchondral shell, and a thick cortex along the shaft."""
    u, build = contour.station, knee.build
    size = np.ptp(knee.outline_mm[37:, 0]) / 82.0
    shaft = build.femur_shaft.half_width_mm * 0.97
    cortex = [(-7, 5.5), (-3, 4.6), (-1, 2.6), (2, 1.6), (7, 0.9), (11, 0.8), (24, 0.8), (29, 0.9), (34, 1.6)]
    cortex += [(37, 2.6), (39, 4.6), (43, 5.5)]
    medial, lateral = build.sclerosis_medial * 0.6, build.sclerosis_lateral * 0.6
    sclerosis = [(10, 0), (12, lateral), (15, lateral), (17, 0), (19, 0), (21, medial), (24, medial), (26, 0)]
    line = [(1, 0), (4, 0.3), (8, 0.3), (11, 0), (13, 0.1), (16, 0.2), (18, 0.2), (20, 0.2), (23, 0.1)]
    line += [(25, 0), (28, 0.3), (32, 0.3), (35, 0)]
    inner, rim = build.second_line + 1.0, build.margin_rim
    attributes = [
        _along(u, [(-3, shaft), (3, 15), (9, 13), (12, 11), (24, 11), (27, 13), (33, 15), (39, shaft)]),
        _along(u, cortex) * build.cortex,
        _along(u, [(-3, 0.9), (3, 0.7), (9, 0.6), (13, 0.42), (23, 0.42), (27, 0.6), (33, 0.7), (39, 0.9)]),
        _along(u, sclerosis),
        _along(u, line),
        _along(u, [(2, 5), (7, 2), (11, inner / 2), (15, inner), (21, inner), (25, inner / 2), (29, 2), (34, 5)]),
        _along(u, [(1, 0), (4, rim), (8, rim), (11, 0.2), (14, 0), (22, 0), (25, 0.2), (28, rim), (32, rim), (35, 0)]),
    ]
    depth = [(-300, 29 * size), (-95, 31 * size), (-62, 38 * size), (-40, 50 * size), (-15, 58 * size), (5, 58 * size)]
    thick = build.cortex
    wall = [(-200, 5.0 * thick), (-90, 3.4 * thick), (-50, 1.4 * thick), (-30, 1.0), (10, 0.9)]
    return _bone(contour, attributes, _over_height(depth), _over_height(wall), rng)


def _tibia(knee: PhantomKnee, contour: Contour, rng: np.random.Generator) -> Bone:
    """The tibia: a flat plateau with rims and a dense subchondral plate, denser where the joint space is narrowed."""
    u, build = contour.station, knee.build
    size = np.ptp(knee.outline_mm[37:, 0]) / 82.0
    shaft = build.tibia_shaft.half_width_mm * 0.97
    cortex = [(30, 5.0), (34, 4.2), (37, 2.6), (41, 1.5), (46, 0.8), (48, 1.0), (52, 1.1), (55, 0.8), (59, 1.2)]
    cortex += [(62, 1.1), (64, 0.8), (69, 1.5), (74, 2.6), (76, 4.2), (80, 5.0)]
    medial, lateral = build.sclerosis_medial, build.sclerosis_lateral
    sclerosis = [(46, 0.0), (48, lateral), (51, lateral), (53, lateral * 0.5), (55, 0.1), (57, medial * 0.5)]
    sclerosis += [(59, medial), (62, medial), (64, 0.0)]
    line = [(46, 0), (48, 0.4), (50, 0.6), (52, 0.5), (54, 0.2), (56, 0.2), (58, 0.5), (60, 0.6), (62, 0.4), (64, 0)]
    inner = build.second_line
    rim = [(43, 0.3), (46, 0.3), (48, build.rim_lateral), (52, build.rim_lateral), (54, 0.2), (56, 0.2)]
    rim += [(58, build.rim_medial), (62, build.rim_medial), (64, 0.3), (67, 0.3)]
    attributes = [
        _along(
            u, [(34, shaft), (40, 15), (45, 12), (47, 8), (50, 6), (61, 6), (63, 8), (66, 12), (70, 15), (76, shaft)]
        ),
        _along(u, cortex) * build.cortex,
        _along(u, [(35, 0.9), (41, 0.7), (45, 0.55), (48, 0.55), (62, 0.55), (65, 0.55), (69, 0.7), (75, 0.9)]),
        _along(u, sclerosis),
        _along(u, line),
        _along(u, [(46, 1), (48, inner / 2), (51, inner), (54, 1.5), (56, 1.5), (59, inner), (62, inner / 2), (64, 1)]),
        _along(u, rim),
    ]
    depth = [(-5, 40 * size), (4, 45 * size), (14, 48 * size), (32, 42 * size), (60, 35 * size), (100, 31 * size)]
    depth += [(300, 29 * size)]
    thick = build.cortex
    wall = [(-10, 0.8), (25, 1.0), (50, 1.5 * thick), (90, 3.4 * thick), (200, 4.8 * thick)]
    return _bone(contour, attributes, _over_height(depth), _over_height(wall), rng)


def _fibula(knee: PhantomKnee, contour: Contour, rng: np.random.Generator) -> Bone:
    """The fibula: a head on a thin shaft; the contour's station is the depth in mm below the head's centre."""
    y, build = contour.station, knee.build
    top = float(knee.outline_mm[47, 1] + build.fibula_head[1])
    half = build.fibula_shaft_half
    attributes: list[Array | float] = [
        _along(y, [(-12, 7.0), (10, 8.0), (30, half * 0.95), (320, half * 0.95)]),
        _along(y, [(-12, 0.4), (8, 0.5), (30, 2.0), (80, 2.8), (320, 2.8)]) * build.cortex,
        _along(y, [(-12, 0.4), (8, 0.45), (30, 0.8), (320, 1.0)]),
        *(0.0, 0.0, 3.0, 0.0),
    ]
    depth = _over_height([(top - 12, 20.0), (top + 8, 22.0), (top + 30, 12.0), (top + 300, 13.0)])
    wall = _over_height([(top, 0.6), (top + 30, 1.6 * build.cortex), (top + 200, 2.4 * build.cortex)])
    return _bone(contour, attributes, depth, wall, rng)
