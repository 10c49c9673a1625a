"""Thickness maps of one leg in millimetres: mineral of its bones, muscle and fat, as the rays cross them.

Bones are rounded plates: at a distance d inside the contour the ray crosses D·sqrt(1 - (1 - d/R)²), R the local
rounding radius and D the local depth. The cortex is what lies between two such shells; cancellous bone fills the
inner one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from kneegrade.phantom.bone_detail import inner_detail
from kneegrade.phantom.contours import STEP_MM, Contour, bone_contour, fibula_contour
from kneegrade.phantom.knee import PhantomKnee
from kneegrade.phantom.rasterise import FloatImage, Placement, distance_field

Array = NDArray[np.float64]

ATTRIBUTE_SMOOTHING_MM = 4.0


@dataclass(frozen=True, eq=False)
class LegMaps:
    """Thickness in mm along the ray, each (H, W) float32.

    Attributes:
        mineral: compact bone, its thickness if it were solid; cancellous bone counts by its volume fraction.
        bone: everything inside the bones, which displaces soft tissue.
        muscle, fat: soft tissue of the whole leg, bones not yet taken out.
    """

    mineral: FloatImage
    bone: FloatImage
    muscle: FloatImage
    fat: FloatImage


@dataclass(frozen=True, eq=False)
class BoneProfile:
    """Properties along a contour (M,) and across a bone.

    Attributes:
        radius, cortex: rounding radius and cortical thickness in mm; density: mineral share of that cortex.
        sclerosis: extra mineral share of the bone below this point, fading over some mm.
        line: strength of the second, parallel line, `line_depth` mm inside.
        depth_knots: (y, depth) pairs in mm of the anteroposterior depth D.
        wall: cortical thickness of the front and back walls in mm, as (y, mm) pairs.
    """

    radius: Array
    cortex: Array
    density: Array
    sclerosis: Array
    line: Array
    line_depth: float
    depth_knots: tuple[tuple[float, float], ...]
    wall: tuple[tuple[float, float], ...]


def leg_maps(
    knee: PhantomKnee, placement: Placement, shape: tuple[int, int], texture: FloatImage | None = None
) -> LegMaps:
    """The thickness maps of one leg in a picture (H, W); `texture` (H, W) has mean 0 and modulates cancellous bone."""
    mineral, bone = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for contour, profile in _bones(knee):
        _add_bone(mineral, bone, contour, profile, knee, placement, texture)
    mineral *= inner_detail(knee, placement, shape)
    _add_patella(mineral, bone, knee, placement, texture)
    muscle, fat = _soft_tissue(knee, placement, shape)
    return LegMaps(mineral, bone, muscle, fat)


def _bones(knee: PhantomKnee) -> list[tuple[Contour, BoneProfile]]:
    """Femur, tibia and fibula with their properties."""
    build = knee.build
    femur = bone_contour(
        knee.outline_mm, "femur", build.femur_shaft, [spur for spur in knee.spurs if "femur" in spur.target]
    )
    tibia = bone_contour(
        knee.outline_mm, "tibia", build.tibia_shaft, [spur for spur in knee.spurs if "tibia" in spur.target]
    )
    fibula = fibula_contour(knee.outline_mm, build.fibula_head, build.fibula_head_half, build.fibula_shaft_half)
    return [
        (femur, _femur_profile(knee, femur)),
        (tibia, _tibia_profile(knee, tibia)),
        (fibula, _fibula_profile(knee, fibula)),
    ]


def _along(station: Array, knots: Sequence[tuple[float, float]]) -> Array:
    """Values along a contour, linear between (u, value) knots, softened so that no seam shows."""
    u, value = zip(*knots, strict=True)
    return np.asarray(gaussian_filter1d(np.interp(station, u, value), ATTRIBUTE_SMOOTHING_MM / STEP_MM, mode="nearest"))


def _femur_profile(knee: PhantomKnee, contour: Contour) -> BoneProfile:
    """Condyles rounded like wheels, thin shell below, stout cortex up the shaft."""
    u, build = contour.station, knee.build
    size = np.ptp(knee.outline_mm[37:, 0]) / 82.0
    shaft = build.femur_shaft.half_width_mm * 0.97
    cortex = [(-7, 5.5), (-3, 4.6), (-1, 2.6), (2, 1.6), (7, 0.9), (11, 0.8), (24, 0.8), (29, 0.9), (34, 1.6)]
    cortex += [(37, 2.6), (39, 4.6), (43, 5.5)]
    medial, lateral = build.sclerosis_medial * 0.6, build.sclerosis_lateral * 0.6
    return BoneProfile(
        radius=_along(u, [(-3, shaft), (3, 15), (9, 13), (12, 11), (24, 11), (27, 13), (33, 15), (39, shaft)]),
        cortex=_along(u, cortex) * build.cortex,
        density=_along(u, [(-3, 0.9), (3, 0.6), (9, 0.5), (27, 0.5), (33, 0.6), (39, 0.9)]),
        sclerosis=_along(
            u, [(10, 0), (12, lateral), (15, lateral), (17, 0), (19, 0), (21, medial), (24, medial), (26, 0)]
        ),
        line=_along(u, [(11, 0), (13, 0.6), (16, 0.9), (18, 0.4), (20, 0.9), (23, 0.6), (25, 0)]),
        line_depth=build.rim * 0.8 + 1.0,
        depth_knots=(
            (-300, 29 * size),
            (-95, 31 * size),
            (-62, 38 * size),
            (-40, 50 * size),
            (-15, 58 * size),
            (5, 58),
        ),
        wall=((-200, 5.0 * build.cortex), (-90, 3.4 * build.cortex), (-50, 1.4 * build.cortex), (-30, 1.0), (10, 0.9)),
    )


def _tibia_profile(knee: PhantomKnee, contour: Contour) -> BoneProfile:
    """A flat table with a dense subchondral plate, brighter where the joint space is lost."""
    u, build = contour.station, knee.build
    size = np.ptp(knee.outline_mm[37:, 0]) / 82.0
    shaft = build.tibia_shaft.half_width_mm * 0.97
    cortex = [(30, 5.0), (34, 4.2), (37, 2.6), (41, 1.5), (46, 0.8), (48, 1.0), (52, 1.1), (55, 0.8), (59, 1.2)]
    cortex += [(62, 1.1), (64, 0.8), (69, 1.5), (74, 2.6), (76, 4.2), (80, 5.0)]
    medial, lateral = build.sclerosis_medial, build.sclerosis_lateral
    sclerosis = [(46, 0.0), (48, lateral), (51, lateral), (53, lateral * 0.5), (55, 0.1), (57, medial * 0.5)]
    sclerosis += [(59, medial), (62, medial), (64, 0.0)]
    return BoneProfile(
        radius=_along(
            u, [(34, shaft), (40, 15), (45, 12), (47, 7), (50, 5), (61, 5), (63, 7), (66, 12), (70, 15), (76, shaft)]
        ),
        cortex=_along(u, cortex) * build.cortex,
        density=_along(u, [(35, 0.9), (41, 0.6), (45, 0.5), (48, 0.6), (62, 0.6), (65, 0.5), (69, 0.6), (75, 0.9)]),
        sclerosis=_along(u, sclerosis),
        line=_along(u, [(46, 0), (48, 0.8), (51, 1.0), (53, 0.5), (57, 0.5), (59, 1.0), (62, 0.8), (64, 0)]),
        line_depth=build.rim,
        depth_knots=(
            (-5, 40 * size),
            (4, 45 * size),
            (14, 48 * size),
            (32, 42 * size),
            (60, 35 * size),
            (100, 31 * size),
            (300, 29 * size),
        ),
        wall=((-10, 0.8), (25, 1.0), (50, 1.5 * build.cortex), (90, 3.4 * build.cortex), (200, 4.8 * build.cortex)),
    )


def _fibula_profile(knee: PhantomKnee, contour: Contour) -> BoneProfile:
    """A knob on a thin tube; the contour's station is the depth below the head's centre in mm."""
    y, build = contour.station, knee.build
    top = float(knee.outline_mm[45, 1] + build.fibula_head[1])
    half = build.fibula_shaft_half
    return BoneProfile(
        radius=_along(y, [(-12, 7.0), (10, 8.0), (30, half * 0.95), (320, half * 0.95)]),
        cortex=_along(y, [(-12, 0.7), (8, 0.8), (30, 2.0), (80, 2.8), (320, 2.8)]) * build.cortex,
        density=_along(y, [(-12, 0.6), (8, 0.6), (30, 0.9), (320, 1.0)]),
        sclerosis=np.zeros_like(y),
        line=np.zeros_like(y),
        line_depth=3.0,
        depth_knots=((top - 12, 20.0), (top + 8, 22.0), (top + 30, 12.0), (top + 300, 13.0)),
        wall=((top, 0.6), (top + 30, 1.6 * build.cortex), (top + 200, 2.4 * build.cortex)),
    )


def _table(y_mm: FloatImage, knots: tuple[tuple[float, float], ...]) -> FloatImage:
    """Linear table look-up of y over a picture."""
    y, value = zip(*knots, strict=True)
    steps = np.interp(np.arange(y[0], y[-1] + 0.5, 0.5), y, value).astype(np.float32)
    steps = gaussian_filter1d(steps, 8.0, mode="nearest")
    return np.asarray(steps[np.clip((y_mm - y[0]) * 2, 0, len(steps) - 1).astype(np.intp)])


def _dome(distance: FloatImage, radius: FloatImage | float) -> FloatImage:
    """Share 0 … 1 of the full depth that a ray crosses at a distance (mm) inside a rounded edge."""
    rest = 1 - np.clip(distance / radius, 0, 1)
    return np.asarray(np.sqrt(1 - rest * rest), dtype=np.float32)


def _add_bone(
    mineral: FloatImage,
    bone: FloatImage,
    contour: Contour,
    profile: BoneProfile,
    knee: PhantomKnee,
    placement: Placement,
    texture: FloatImage | None,
) -> None:
    """Add one bone to the maps in place."""
    shape = (bone.shape[0], bone.shape[1])
    field = distance_field(placement.to_px(contour.points), shape)
    if field is None:
        return
    window = (field.rows, field.columns)
    distance = field.inside_px / np.float32(placement.px_per_mm)
    _, y_mm = placement.grid_mm(field.inside_px.shape, (field.columns.start, field.rows.start))

    def at(values: Array) -> FloatImage:
        return values.astype(np.float32)[field.nearest]

    coverage = np.clip(field.inside_px + 0.5, 0, 1)
    depth = _table(y_mm, profile.depth_knots)
    radius, cortex = at(profile.radius), at(profile.cortex)
    outer = depth * _dome(distance, radius) * coverage
    wall = _table(y_mm, profile.wall)
    inner = np.clip(depth - 2 * wall, 0, None) * _dome(distance - cortex, np.maximum(radius - cortex, 1.0))
    inner = np.minimum(inner, outer)
    fraction = knee.build.bone_volume_fraction * _marrow(y_mm)
    fraction = fraction * (1 + at(profile.sclerosis) * np.exp(-np.clip(distance, 0, None) / 3.5))
    off_line = (distance - profile.line_depth) / 0.55
    fraction = fraction * (1 + 0.35 * at(profile.line) * np.exp(-off_line * off_line))
    if texture is not None:
        fraction = fraction * np.clip(1 + knee.build.texture * texture[window], 0.1, 3.0)
    mineral[window] += (outer - inner) * at(profile.density) + inner * fraction
    bone[window] += outer


def _marrow(y_mm: FloatImage) -> FloatImage:
    """Share of the cancellous fraction left: full near the joint, little in the marrow of the shafts."""
    return np.asarray(0.12 + 0.88 / (1 + np.square(y_mm / 60.0) ** 2), dtype=np.float32)


def _add_patella(
    mineral: FloatImage, bone: FloatImage, knee: PhantomKnee, placement: Placement, texture: FloatImage | None
) -> None:
    """Add the patella, a lens of bone in front of the femur, to the maps in place."""
    x0, y0, half_x, half_y, thick = knee.build.patella
    x_mm, y_mm = placement.grid_mm((bone.shape[0], bone.shape[1]))
    across, along = (x_mm - x0) / half_x, (y_mm - y0) / half_y
    across = across * (1 + 0.18 * np.clip(along, -1, 1))  # narrower at its lower pole
    radius = np.sqrt(across * across + along * along) + 1e-6
    distance = (1 - radius) * min(half_x, half_y)
    outer = thick * _dome(distance, 14.0)
    inner = (thick - 1.6) * _dome(distance - 0.8, 13.2)
    fraction = knee.build.bone_volume_fraction * 0.55
    filled = fraction if texture is None else fraction * np.clip(1 + knee.build.texture * texture, 0.1, 3.0)
    mineral += (outer - np.minimum(inner, outer)) * np.float32(0.35) + inner * filled
    bone += outer


def _soft_tissue(knee: PhantomKnee, placement: Placement, shape: tuple[int, int]) -> tuple[FloatImage, FloatImage]:
    """Muscle and fat thickness of the leg, elliptic across."""
    build = knee.build
    x_mm, y_mm = placement.grid_mm(shape)
    y = np.arange(-340.0, 341.0, 2.0)
    base = build.leg_half_width
    width = base * np.interp(
        y, [-340, -180, -70, -15, 25, 60, 130, 240, 340],
        [build.thigh * 1.25, build.thigh * 1.12, 1.04, 0.99, 0.95, 0.95 * build.calf, 1.08 * build.calf, 0.8, 0.55],
    )  # fmt: skip
    middle = np.interp(y, [-340, -80, 0, 80, 340], [-6 - 0.5 * 340 * build.femur_shaft.lean, -2, 0, -4, -2])
    wave = 0.012 * base * np.sin(y / 17.0 + 200 * build.texture)
    width, middle = gaussian_filter1d(width, 8.0) + wave, gaussian_filter1d(middle, 8.0)
    row = (y_mm + 340) / 2

    def look(values: Array) -> FloatImage:
        cell = np.clip(row, 0, len(values) - 1.001)
        low = cell.astype(np.intp)
        table = values.astype(np.float32)
        return np.asarray(table[low] + (cell - low) * (table[low + 1] - table[low]))

    half, offset = look(width), x_mm - look(middle)
    depth = np.float32(0.95)

    def chord(half_width: FloatImage) -> FloatImage:
        return np.asarray(2 * depth * np.sqrt(np.clip(half_width * half_width - offset * offset, 0, None)))

    total = chord(half)
    muscle = chord(np.maximum(half - np.float32(build.fat), 5.0))
    return muscle, np.asarray(total - muscle)
