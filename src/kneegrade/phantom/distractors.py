"""Films without a knee, so that a finder learns to say so: blank, shafts, a hand, a skull, a chest, mere shapes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kneegrade.phantom.xray import Exposure, attenuation_per_mm

FloatImage = NDArray[np.float32]
Grid = tuple[FloatImage, FloatImage]


def distractor_path(
    shape: tuple[int, int], pixel_mm: float, exposure: Exposure, grain: FloatImage, rng: np.random.Generator
) -> FloatImage:
    """Line integral of attenuation (H, W) of something that is not a knee."""
    kinds: tuple[Callable[[Grid, np.random.Generator], tuple[FloatImage, FloatImage]], ...]
    kinds = (_blank, _shafts, _shafts, _hand, _skull, _chest, _shapes)
    kind = kinds[rng.integers(len(kinds))]
    x = (np.arange(shape[1], dtype=np.float32) - np.float32(shape[1] / 2)) * np.float32(pixel_mm)
    y = (np.arange(shape[0], dtype=np.float32) - np.float32(shape[0] / 2))[:, None] * np.float32(pixel_mm)
    angle = rng.uniform(0, 2 * np.pi) if kind in (_shafts, _hand, _shapes) else rng.normal(0, 0.1)
    turned = (np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y)
    soft, mineral = kind((turned[0].astype(np.float32), turned[1].astype(np.float32)), rng)
    muscle, bone = attenuation_per_mm("muscle", exposure.energy_kev), attenuation_per_mm("bone", exposure.energy_kev)
    textured = mineral * np.clip(1 + 0.12 * grain, 0.2, 2)
    return np.asarray(muscle * soft + (bone - muscle) * textured, dtype=np.float32)


def _ellipsoid(grid: Grid, centre: tuple[float, float], half: tuple[float, float], depth: float) -> FloatImage:
    """Thickness in mm of an ellipsoid."""
    x, y = (grid[0] - centre[0]) / half[0], (grid[1] - centre[1]) / half[1]
    return np.asarray(depth * np.sqrt(np.clip(1 - x * x - y * y, 0, None)), dtype=np.float32)


def _tube(grid: Grid, start: tuple[float, float], end: tuple[float, float], half: float, knob: float) -> FloatImage:
    """Mineral thickness of a long bone from start to end (mm), widened by `knob` at both ends."""
    along = np.subtract(end, start)
    length = float(np.hypot(*along))
    u = ((grid[0] - start[0]) * along[0] + (grid[1] - start[1]) * along[1]) / length
    across = np.abs(-(grid[0] - start[0]) * along[1] + (grid[1] - start[1]) * along[0]) / length
    end_share = np.exp(-np.minimum(np.abs(u), np.abs(length - u)) / (half * 1.6))
    width = half * (1 + (knob - 1) * end_share)
    beyond = np.clip(np.maximum(-u, u - length), 0, None)
    inside = np.clip(width - np.hypot(across, beyond), 0, None)
    outer = 2 * np.sqrt(np.clip(inside * (2 * width - inside), 0, None))
    hollow = np.clip(inside - half * 0.28 * (1.1 - end_share), 0, None)
    inner = 2 * np.sqrt(np.clip(hollow * (2 * width - hollow), 0, None))
    return np.asarray(np.clip(outer - 0.82 * inner, 0, None), dtype=np.float32)


def _blank(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Nothing in the beam, or an even slab."""
    slab = np.zeros_like(grid[0] + grid[1]) + np.float32(rng.choice([0.0, rng.uniform(5, 80)]))
    return slab, np.zeros_like(slab)


def _shafts(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """One or two shafts of long bones without a joint (thigh, lower leg, forearm)."""
    half, length = float(rng.uniform(35, 75)), 400.0
    soft = 2 * np.sqrt(np.clip(half * half - grid[0] * grid[0], 0, None))
    count = int(rng.integers(1, 3))
    mineral = np.zeros_like(soft)
    for number in range(count):
        x = float((number - (count - 1) / 2) * half * 0.7)
        slant, top = float(rng.normal(0, 12)), float(rng.choice([-length, -length, rng.uniform(-80, 0)]))
        mineral += _tube(grid, (x, top), (x + slant, length), float(rng.uniform(7, 15)), float(rng.uniform(1.0, 1.8)))
    return soft, mineral


def _hand(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Five rays of short bones from a wrist."""
    palm = _ellipsoid(grid, (0, 30), (48, 60), 28)
    mineral, fingers = np.zeros_like(palm), np.zeros_like(palm)
    for ray in range(5):
        angle = np.deg2rad((ray - 2) * rng.uniform(8, 14) + rng.normal(0, 2))
        start = np.array([(ray - 2) * 13.0, 25.0])
        for length, half in ((55, 4.5), (38, 4.0), (24, 3.5), (16, 3.0)):
            end = start + length * np.array([np.sin(angle), -np.cos(angle)])
            first, last = (float(start[0]), float(start[1])), (float(end[0]), float(end[1]))
            mineral += _tube(grid, first, last, half, 1.6)
            fingers = np.maximum(fingers, _tube(grid, first, last, half * 2.2, 1.0) > 0)
            start = end + 2.5 * np.array([np.sin(angle), -np.cos(angle)])
    for _ in range(8):
        place = (float(rng.uniform(-24, 24)), float(rng.uniform(34, 58)))
        mineral += _ellipsoid(grid, place, (7, 7), 4)
    mineral += _tube(grid, (-14, 65), (-18, 250), 7, 2.0) + _tube(grid, (14, 65), (14, 250), 7.5, 2.2)
    fingers = np.maximum(fingers, (np.abs(grid[0]) < 30) & (grid[1] > 60))  # and the forearm
    return np.maximum(gaussian_filter(fingers, 2) * np.float32(16), palm), mineral


def _skull(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """A shell with orbits and a jaw."""
    half = (float(rng.uniform(65, 85)), float(rng.uniform(85, 110)))
    outer = _ellipsoid(grid, (0, -20), half, 150)
    inner = _ellipsoid(grid, (0, -20), (half[0] - 6, half[1] - 6), 140)
    mineral = outer - inner + 0.06 * inner
    for side in (-1, 1):
        mineral -= 0.35 * _ellipsoid(grid, (side * 32, 5), (20, 18), 30)
    mineral += 0.4 * _ellipsoid(grid, (0, 75), (45, 35), 40)
    return np.maximum(outer, _ellipsoid(grid, (0, 120), (50, 90), 90)), np.clip(mineral, 0, None)


def _chest(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """A trunk with two dark lungs, ribs and a spine, scaled to the film."""
    scale = float(np.ptp(grid[0])) / 330
    near = (grid[0] / scale, grid[1] / scale)
    soft = _ellipsoid(near, (0, 30), (165, 320), 130)
    for side in (-1, 1):
        soft = soft - _ellipsoid(near, (side * 72, -10), (58, 120), 90)
    mineral = 8 * np.exp(-((near[0] / 16) ** 2)) * (1 + 0.3 * np.sin(near[1] / 5))
    rise = float(rng.uniform(0.15, 0.35))
    for row in range(-7, 8):
        bend = near[1] - row * 22 - rise * np.abs(near[0]) + near[0] ** 2 / 250
        mineral = mineral + 2.2 * np.exp(-((bend / 4.5) ** 2)) * (np.abs(near[0]) < 140)
    return np.clip(soft, 0, None).astype(np.float32), np.asarray(mineral, dtype=np.float32)


def _shapes(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Scattered ellipsoids and tubes, like packing or a foot seen from anywhere."""
    soft = _ellipsoid(
        grid, (float(rng.normal(0, 30)), 0), (float(rng.uniform(30, 120)), float(rng.uniform(60, 200))), 80
    )
    mineral = np.zeros_like(soft)
    for _ in range(int(rng.integers(1, 9))):
        place = (float(rng.normal(0, 60)), float(rng.normal(0, 80)))
        half = (float(rng.uniform(5, 30)), float(rng.uniform(5, 30)))
        mineral += 0.25 * _ellipsoid(grid, place, half, 30)
    return soft, mineral
