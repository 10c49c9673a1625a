"""Lines and shades inside the bones that no contour gives: growth-plate scars, condyle borders, the open notch."""

import numpy as np
from numpy.typing import NDArray

from kneegrade.phantom.knee import PhantomKnee
from kneegrade.phantom.rasterise import FloatImage, Placement


def inner_detail(knee: PhantomKnee, placement: Placement, shape: tuple[int, int]) -> FloatImage:
    """Factor (H, W) near 1 on the bones' mineral, the same for every picture of one knee."""
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 3]))
    x, y = placement.grid_mm(shape)
    notch_x, notch_y = (float(value) for value in knee.outline_mm[18])
    strength = 0.25 * knee.build.scar + 0.03
    detail = np.ones(shape, np.float32)
    # growth-plate scars of femur and tibia, broken upright borders of the condyles, a border below the spines
    lines = [
        (False, notch_y - rng.uniform(14, 24), rng.uniform(-34, -5), rng.uniform(5, 36), strength),
        (False, rng.uniform(13, 22), rng.uniform(-34, -8), rng.uniform(8, 34), strength * 0.8),
        (True, notch_x + rng.uniform(-13, -8), notch_y - rng.uniform(20, 34), notch_y + 2, 0.25 * rng.random()),
        (True, notch_x + rng.uniform(8, 15), notch_y - rng.uniform(20, 34), notch_y + 2, 0.25 * rng.random()),
        (False, rng.uniform(5, 11), -16.0, 16.0, 0.15 * rng.random()),
    ]
    for upright, level, first, last, height in lines:
        along, across = (y, x) if upright else (x, y)
        detail += _line(along, across, float(level), (float(first), float(last)), float(height), rng)
    open_notch = rng.uniform(0.05, 0.3) * np.exp(-(((x - notch_x) / 9.0) ** 2))
    reach = float(rng.uniform(9.0, 20.0))
    inside = _step((notch_y + 2 - y) / 1.5) * _step((y - notch_y + reach) / 3.0)
    return np.asarray(detail * (1 - open_notch * inside), dtype=np.float32)


def _line(
    along: FloatImage,
    across: FloatImage,
    level: float,
    ends: tuple[float, float],
    height: float,
    rng: np.random.Generator,
) -> FloatImage:
    """One faint wavy line of some 1.2 mm width, fading out at its ends and in places between."""
    phase, bend = rng.uniform(0, 2 * np.pi, 3), rng.normal(0, 0.004)
    middle = level + bend * (along - sum(ends) / 2) ** 2 + 0.8 * np.sin(along / 6 + phase[0])
    middle = middle + 0.4 * np.sin(along / 2.3 + phase[1])
    off = (across - middle) / float(rng.uniform(0.45, 0.9))
    shown = _step((along - ends[0]) / 2) * _step((ends[1] - along) / 2) * (0.6 + 0.4 * np.sin(along / 5 + phase[2]))
    return np.asarray(height * np.exp(-off * off) * shown, dtype=np.float32)


def _step(value: NDArray[np.floating]) -> FloatImage:
    """Smooth step from 0 to 1 about 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.clip(value, -10, 10)), dtype=np.float32)
