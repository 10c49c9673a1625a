"""Total knee replacements drawn into pictures of real knees, independently of the training data of the implant network.

`kneegrade.training.metal.drawn_metal` builds implants from lines and boxes at landmarks and adds optical depths. Here
the outlines of the components of a frontal radiograph are templates, smoothed by splines, fitted to the knee and
filled; their brightness replaces that of the bone, the polyethylene is a dark gap, and edges are sharpened as by a
scanner.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import splev, splprep
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]
Picture = NDArray[np.float32]

# Outlines in plateau widths: x from the centre of the plateau, y from the joint line, down positive.
CONDYLES = ((-0.47, -0.07), (-0.43, 0.01), (-0.29, 0.04), (-0.15, 0.02), (-0.07, -0.06), (0.0, -0.1), (0.07, -0.06),
            (0.15, 0.02), (0.29, 0.04), (0.43, 0.01), (0.47, -0.07), (0.46, -0.17), (0.36, -0.22), (0.25, -0.19),
            (0.0, -0.17), (-0.25, -0.19), (-0.36, -0.22), (-0.46, -0.17))  # fmt: skip
FLANGE = ((-0.33, -0.15), (-0.27, -0.35), (-0.16, -0.5), (0.0, -0.54), (0.16, -0.5), (0.27, -0.35), (0.33, -0.15))
TRAY = ((-0.49, 0.115), (0.49, 0.115), (0.49, 0.15), (0.46, 0.165), (-0.46, 0.165), (-0.49, 0.15))
KEELS = (
    (
        (-0.24, 0.16),
        (0.24, 0.16),
        (0.09, 0.28),
        (0.075, 0.5),
        (0.05, 0.56),
        (-0.05, 0.56),
        (-0.075, 0.5),
        (-0.09, 0.28),
    ),
    ((-0.1, 0.16), (0.1, 0.16), (0.1, 0.42), (0.06, 0.47), (-0.06, 0.47), (-0.1, 0.42)),
    ((-0.06, 0.16), (0.06, 0.16), (0.055, 0.75), (0.03, 0.8), (-0.03, 0.8), (-0.055, 0.75)),
)
SMOOTH = (True, True, False, False)


def draw_total_knee(crop: Picture, landmarks_px: Array, rng: np.random.Generator) -> Picture:
    """The crop (S, S) in [0, 1] of a level knee with a total knee replacement.

    Args:
        crop: contrast stretched.
        landmarks_px: (74, 2) in its pixels.
        rng: random generator.
    """
    lateral, medial = landmarks_px[47], landmarks_px[63]
    width = float(np.hypot(*(medial - lateral)))
    centre = np.array(
        [(lateral[0] + medial[0]) / 2, (landmarks_px[12:25, 1].max() + landmarks_px[47:64, 1].mean()) / 2]
    )
    keel = KEELS[rng.integers(len(KEELS))]
    levels = (rng.uniform(0.92, 1.0), rng.uniform(0.7, 1.0), rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0))
    bone = np.clip(crop * np.float32(rng.uniform(0.6, 1.0)), 0, 1)
    gap = _filled(crop.shape, _placed(((-0.5, 0.0), (0.5, 0.0), (0.5, 0.12), (-0.5, 0.12)), centre, width, rng), False)
    dark = np.quantile(bone, rng.uniform(0.2, 0.45))
    drawn = bone * (1 - gap) + gap * np.minimum(bone, dark)
    for outline, level, smooth in zip((FLANGE, CONDYLES, TRAY, keel), levels, SMOOTH, strict=True):
        cover = _filled(crop.shape, _placed(outline, centre, width, rng), smooth)
        drawn = drawn * (1 - cover) + np.maximum(drawn, level) * cover
    sharp = drawn + rng.uniform(0, 0.6) * (drawn - gaussian_filter(drawn, rng.uniform(1, 4) * len(crop) / 144))
    noisy = gaussian_filter(sharp, rng.uniform(0.2, 0.8) * len(crop) / 144) + rng.normal(0, 0.01, crop.shape)
    return np.asarray(np.clip(noisy, 0, 1), dtype=np.float32)


def _placed(outline: tuple[tuple[float, float], ...], centre: Array, width: float, rng: np.random.Generator) -> Array:
    """An outline in pixels, each component with its own size, angle, position and small deviations."""
    points = np.array(outline) * rng.normal(1, 0.04, 2) + rng.normal(0, 0.004, (len(outline), 2))
    angle = np.deg2rad(rng.normal(0, 2))
    turned = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(centre + width * (turned + rng.normal(0, 0.01, 2)))


def _filled(shape: tuple[int, ...], corners: Array, smooth: bool) -> Picture:
    """Covered share of each pixel (S, S) of a closed outline, from nine points per pixel."""
    if smooth:
        spline, _ = splprep(np.vstack([corners, corners[:1]]).T, s=0, per=True)
        corners = np.column_stack(splev(np.linspace(0, 1, 120), spline))
    rows, columns = shape[0] * 3, shape[1] * 3
    fine = corners * 3 + 1.0  # centre of the first of nine points of pixel (0, 0) is (-1/3, -1/3)
    crossings = np.zeros((rows, columns + 1), dtype=np.int32)  # even-odd rule along each row of points
    for (x0, y0), (x1, y1) in zip(fine, np.roll(fine, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        own = np.arange(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high))))
        x = x0 + (own - y0) * (x1 - x0) / ((y1 - y0) or 1.0)
        np.add.at(crossings, (own, np.clip(np.ceil(x), 0, columns).astype(int)), 1)
    inside = crossings[:, :columns].cumsum(1) % 2
    return np.asarray(inside.reshape(shape[0], 3, shape[1], 3).mean((1, 3)), dtype=np.float32)
