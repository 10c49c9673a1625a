"""Objects on films that are not metal in the knee: they are drawn into pictures of both classes of the implant network.

Markers, text, rulers, calibration balls and collimation are those of phantom films (`kneegrade.phantom.film_content`),
placed beside the knee. Grid lines, seams, scratches, dust, folds, buttons and zips of clothing are drawn here.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from kneegrade.phantom.film_content import draw_collimation, draw_markers, sample_overlay

Array = NDArray[np.float64]
Picture = NDArray[np.float32]
MARKERS, COLLIMATION, BALL = 0.35, 0.15, 0.12  # probabilities
BALL_MM = (15.0, 35.0)


def draw_film_objects(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """The picture (S, S) with a random choice of objects; it may stay as it is.

    Args:
        picture: (S, S) float32, 0 and 1 are the ends of the contrast range.
        landmarks_mm: (74, 2) from `drawn_metal.knee_mm`.
        px_per_mm: pixels per millimetre.
        rng: random generator.
    """
    overlay = sample_overlay(rng, [str(rng.choice(["L", "R"]))])
    overlay = replace(overlay, ball_mm=0.0, letters=("",), text="", ruler="") if rng.random() > MARKERS else overlay
    overlay = replace(overlay, ball_mm=0.0, height_mm=float(rng.uniform(5, 20)))
    if rng.random() < BALL:
        overlay = replace(
            overlay, ball_mm=float(rng.uniform(*BALL_MM)), ball_at=_beside(landmarks_mm, px_per_mm, picture, rng)
        )
    picture = draw_markers(np.clip(picture, 0, 1), 1 / px_per_mm, overlay)
    if rng.random() < COLLIMATION:
        widths = rng.gamma(1.5, 5.0, 4) * (rng.random(4) < 0.4)
        shutter = (float(widths[0]), float(widths[1]), float(widths[2]), float(widths[3]))
        grey = float(rng.choice([0.0, 1.0, rng.uniform(0, 1)]))
        picture = draw_collimation(
            picture,
            1 / px_per_mm,
            replace(overlay, shutter_mm=shutter, shutter_grey=grey, shutter_deg=float(rng.normal(0, 4))),
        )
    for draw, probability in OBJECTS:
        if rng.random() < probability:
            picture = draw(picture, landmarks_mm, px_per_mm, rng)
    return picture


def _beside(landmarks_mm: Array, px_per_mm: float, picture: Picture, rng: np.random.Generator) -> tuple[float, float]:
    """A place beside the bones, relative to width and height, at most half outside the picture."""
    side = picture.shape[0] / px_per_mm
    edge = np.nanmin(landmarks_mm[:, 0]) if rng.random() < 0.5 else np.nanmax(landmarks_mm[:, 0])
    outward = -1 if edge < side / 2 else 1
    return float((edge + outward * rng.uniform(6, 16)) / side), float(rng.uniform(-0.05, 1.05))


def _added(
    picture: Picture, rng: np.random.Generator, strength: tuple[float, float], blur: float, lines: object
) -> Picture:
    """The picture plus a drawing of lines ((points, width) in pixels) of random sign and strength."""
    canvas = Image.new("L", (picture.shape[1] * 2, picture.shape[0] * 2))
    draw = ImageDraw.Draw(canvas)
    for points, width in lines:  # type: ignore[attr-defined]
        draw.line([tuple(2 * p) for p in np.asarray(points)], fill=255, width=max(1, round(2 * width)))
    shape = np.asarray(canvas.reduce(2), dtype=np.float32) / np.float32(255)
    shape = gaussian_filter(shape, blur) if blur > 0 else shape
    return picture + shape * np.float32(rng.uniform(*strength))


def _grid(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """Lines of an anti-scatter grid."""
    size = picture.shape[0]
    period, phase = rng.uniform(2, 40), rng.uniform(0, 1)
    axis = np.arange(size, dtype=np.float32) / np.float32(period) + np.float32(phase)
    ridges = (axis % 1) * period < rng.uniform(0.8, 2)
    wave = np.asarray(np.cos(2 * np.pi * axis) if period < 8 else ridges, dtype=np.float32)
    wave = wave * np.float32(rng.uniform(-0.08, 0.08))
    return np.asarray(picture + (wave if rng.random() < 0.5 else wave[:, None]), dtype=np.float32)


def _seam(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """A straight line across the whole picture: a seam of detectors, a line of a stand."""
    size, at, slope = picture.shape[0], rng.uniform(0, 1), rng.normal(0, 0.02)
    a, b = np.array([-5, at * size]), np.array([size + 5, (at + slope) * size])
    points = np.array([a, b]) if rng.random() < 0.5 else np.array([a[::-1], b[::-1]])
    return _added(picture, rng, (-0.4, 0.5), rng.uniform(0.2, 0.8), [(points, rng.uniform(0.5, 2.0))])


def _scratches(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """Hairlines and dust of the size of one to two pixels."""
    size, lines = picture.shape[0], []
    for _ in range(int(rng.integers(1, 5))):
        start, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        bend, length = rng.normal(0, 0.3), rng.choice([1.5, rng.uniform(5, 120)])
        steps = np.linspace(0, length, 6)
        angles = angle + bend * steps / max(length, 1)
        lines.append((start + np.column_stack([steps * np.cos(angles), steps * np.sin(angles)]), rng.uniform(0.5, 1.0)))
    return _added(picture, rng, (-0.4, 0.4), 0.4, lines)


def _folds(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """Wide soft bands: folds of clothing or bandages, edges of a cushion."""
    size, lines = picture.shape[0], []
    for _ in range(int(rng.integers(1, 5))):
        points = np.column_stack(
            [np.linspace(-10, size + 10, 5), rng.uniform(0, size) + np.cumsum(rng.normal(0, size / 12, 5))]
        )
        lines.append((points if rng.random() < 0.7 else points[:, ::-1], rng.uniform(1, 14)))
    return _added(picture, rng, (-0.1, 0.15), rng.uniform(0.6, 5), lines)


def _clothing(picture: Picture, landmarks_mm: Array, px_per_mm: float, rng: np.random.Generator) -> Picture:
    """A zip, buttons or a wire beside the bones."""
    x, y = np.array(_beside(landmarks_mm, px_per_mm, picture, rng)) * picture.shape[0]
    style, lines = int(rng.integers(3)), []
    if style == 0:
        step, half = rng.uniform(1.3, 2.5) * px_per_mm, rng.uniform(1, 3) * px_per_mm
        lean = rng.normal(0, 0.1)
        for row in np.arange(0, picture.shape[0], step):
            lines.append((np.array([[x + lean * row - half, row], [x + lean * row + half, row]]), 0.4 * step))
    elif style == 1:
        around = np.linspace(0, 2 * np.pi, 25)
        ring = np.column_stack([np.cos(around), np.sin(around)])
        radius = rng.uniform(3, 9) * px_per_mm
        for row in y + np.arange(int(rng.integers(1, 4))) * rng.uniform(14, 30) * px_per_mm:
            lines += [
                ([x, row] + ring * radius * share, rng.uniform(0.5, 3.0)) for share in (1.0, rng.uniform(0.1, 0.6))
            ]
    else:
        points = [x, y] + np.cumsum(rng.normal(0, 6, (12, 2)), axis=0) * px_per_mm * [0.4, 1]
        lines.append((points, rng.uniform(0.8, 3)))
    return _added(picture, rng, (0.1, 0.8), rng.uniform(0.3, 1.0), lines)


OBJECTS: tuple[tuple[Callable[[Picture, Array, float, np.random.Generator], Picture], float], ...] = (
    (_grid, 0.12), (_seam, 0.1), (_scratches, 0.2), (_folds, 0.15), (_clothing, 0.12),
)  # fmt: skip
