"""Metal drawn into pictures of real knees: training data of the implant network.

Real knees with metal are not labelled in the available data. `metal_shapes.sample_metal` draws what lies in a knee and
where (`MetalPart`s at its landmarks); `draw_metal` renders it. Lengths are in millimetres of a knee whose tibial
plateau is 80 mm wide.

A picture is proportional to the logarithm of the dose, so attenuations add. White is the grey value at which a film
saturates: with brightness b of a pixel, metal of optical depth m leaves the share exp(−m) of its distance to white,
b' = white − (white − b) · exp(−m). Bone that is brighter than white stays as it is. A negative depth is bone that was
removed, as under the plastic of a tibial component.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.training.metal.metal_shapes import MetalPart

PLATEAU_MM = 80.0
SUPERSAMPLING = 3
WHITE = (0.85, 1.5)  # of the film, where 1 is the 99th percentile of the knee without metal
LOG_DEPTH_FACTORS = (-0.35, 1.4)  # of a whole implant; thick metal is uniformly white
BLUR_MM = (0.15, 0.6)
MIN_VISIBLE_MM2 = 12.0  # area of metal, weighted by the change of brightness relative to the contrast range

Array = NDArray[np.float64]
Picture = NDArray[np.float32]


def knee_mm(landmarks_px: Array) -> tuple[Array, float]:
    """Landmarks (74, 2) in millimetres of a plateau of 80 mm, and pixels per millimetre."""
    plateau = landmarks_px[TIBIA_PLATEAU_MEDIAL] - landmarks_px[TIBIA_PLATEAU_LATERAL]
    px_per_mm = float(np.hypot(*plateau)) / PLATEAU_MM
    return np.asarray(landmarks_px, dtype=np.float64) / px_per_mm, px_per_mm


def draw_metal(
    picture: Picture, parts: list[MetalPart], px_per_mm: float, rng: np.random.Generator
) -> tuple[Picture, float]:
    """The picture (S, S) with metal, and the visible area of the metal in mm² (compare with `MIN_VISIBLE_MM2`).

    Args:
        picture: (S, S) in [0, 1]; 0 and 1 are the ends of the contrast range, the result may exceed 1.
        parts: from `sample_metal`.
        px_per_mm: pixels per millimetre.
        rng: draws white, blur and the depth of the whole implant.
    """
    depth = np.zeros(picture.shape, dtype=np.float32)
    for part in parts:
        _add_part(depth, part, px_per_mm)
    depth = gaussian_filter(depth, rng.uniform(*BLUR_MM) * px_per_mm) * np.float32(
        np.exp(rng.uniform(*LOG_DEPTH_FACTORS))
    )
    room = np.clip(np.float32(rng.uniform(*WHITE)) - picture, 0, None)
    drawn = np.clip(picture + room * (1 - np.exp(-depth)), 0, None)
    visible = float((drawn - picture).sum()) / px_per_mm**2
    return np.asarray(drawn, dtype=np.float32), visible


def _add_part(depth: Picture, part: MetalPart, px_per_mm: float) -> None:
    """Add the optical depth of a part to the map (S, S), in the rectangle around it."""
    points = part.points_mm * px_per_mm
    margin = 2 + (part.half_width_mm or 0) * px_per_mm
    low = np.maximum(np.floor(points.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + margin) + 1, depth.shape[::-1]).astype(int)
    if (high <= low).any():
        return
    corners = [tuple(p) for p in ((points - low + 0.5) * SUPERSAMPLING).tolist()]
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    if part.half_width_mm is None:
        cover = _covered(size, corners, None)
    else:  # a round rod: three widths approximate the chord
        half = part.half_width_mm * px_per_mm
        cover = np.mean([_covered(size, corners, half * share) for share in (1.0, 0.85, 0.6)], axis=0)
    depth[low[1] : high[1], low[0] : high[0]] += np.float32(part.depth) * cover


def _covered(size: tuple[int, int], corners: list[tuple[float, ...]], half: float | None) -> Picture:
    """Covered share of each pixel, (height, width): of a polygon, or of a line of half-width `half` pixels."""
    canvas = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    if half is None:
        draw.polygon(corners, fill=255)
    else:
        radius = max(half * SUPERSAMPLING, 0.5)
        draw.line(corners, fill=255, width=max(1, round(2 * radius)))
        for x, y in corners:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)
