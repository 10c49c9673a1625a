"""Film content other than the knee: overlays on any film, and objects of films without a knee.

An `Overlay` has side markers, collimation borders, text, a ruler and a calibration ball. Films without a knee
(distractors) train the knee localizer to report that there is none: blank films, shafts, a hand, a skull, a chest,
random shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from kneegrade.phantom.xray import Exposure, attenuation_per_mm

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Overlay:
    """Markers and borders of a film; positions are (x, y) relative to the film's width and height.

    Attributes:
        letters: marker text, one per knee ("" = none).
        places: positions of the letters.
        height_mm: height of a letter.
        box: "plain" bright letter, "plate" dark letter on a bright plate, "frame" bright letter on a grey plate.
        shutter_mm: width of the collimation border on the left, top, right and bottom.
        shutter_grey: its grey level.
        shutter_deg: its rotation.
        text: a line of small text near an edge ("" = none).
        ruler: edge with a ruler that has a mark every 10 mm: "left", "right" or "" (none).
        ball_mm: diameter of a calibration ball, 0 = none.
        ball_at: position of the ball.
    """

    letters: tuple[str, ...]
    places: tuple[tuple[float, float], ...]
    height_mm: float
    box: str
    shutter_mm: tuple[float, float, float, float]
    shutter_grey: float
    shutter_deg: float
    text: str
    ruler: str
    ball_mm: float
    ball_at: tuple[float, float]


def sample_overlay(rng: np.random.Generator, sides: Sequence[str]) -> Overlay:
    """Draw the overlay of a film that shows knees of these sides."""
    marked = rng.random(max(len(sides), 1)) < 0.75
    letters = tuple(side if mark else "" for side, mark in zip(sides or "R", marked, strict=True))
    outer = rng.uniform(0.02, 0.12, len(letters))
    x = [share if letter == "R" else 1 - share for share, letter in zip(outer, letters, strict=True)]
    if len(letters) == 1:
        x = [float(rng.choice([0.06, 0.94, 0.15, 0.85]))]
    y = rng.uniform(0.05, 0.95, len(letters))
    borders = rng.gamma(1.5, 4.0, 4) * (rng.random(4) < 0.3)
    return Overlay(
        letters=letters,
        places=tuple((float(a), float(b)) for a, b in zip(x, y, strict=True)),
        height_mm=float(rng.uniform(5.0, 13.0)),
        box=("plain", "plate", "frame")[rng.integers(3)],
        shutter_mm=(float(borders[0]), float(borders[1]), float(borders[2]), float(borders[3])),
        shutter_grey=float(rng.choice([0.0, 0.0, 0.0, 1.0, rng.uniform(0.0, 0.4)])),
        shutter_deg=float(rng.normal(0.0, 1.2)),
        text=("", "", "ERECT", "WEIGHT BEARING", "PHANTOM", "70KV")[rng.integers(6)],
        ruler=("left", "right", "", "", "", "", "", "")[rng.integers(8)],
        ball_mm=float(rng.choice([25.0, 25.4, 30.0]) * (rng.random() < 0.08)),
        ball_at=(float(rng.uniform(0.05, 0.95)), float(rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.8, 0.95)]))),
    )


def draw_markers(pixels: FloatImage, pixel_mm: float, overlay: Overlay) -> FloatImage:
    """The film (H, W) with its letters, text, ruler and calibration ball."""
    canvas = Image.fromarray((pixels * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    height = max(6, round(overlay.height_mm / pixel_mm))
    for letter, (x, y) in zip(overlay.letters, overlay.places, strict=True):
        if letter:
            _draw_letter(draw, letter, (x * canvas.width, y * canvas.height), height, overlay.box)
    if overlay.text:
        font = ImageFont.load_default(max(6, height // 2))
        draw.text((canvas.width * 0.04, canvas.height * 0.94), overlay.text, fill=230, font=font)
    if overlay.ruler:
        _draw_ruler(draw, canvas.width, canvas.height, pixel_mm, overlay.ruler)
    if overlay.ball_mm:
        x, y = overlay.ball_at[0] * canvas.width, overlay.ball_at[1] * canvas.height
        half = overlay.ball_mm / pixel_mm / 2
        draw.ellipse((x - half, y - half, x + half, y + half), fill=252)
    drawn = np.asarray(canvas, dtype=np.float32) / np.float32(255)
    changed = np.abs(drawn - pixels) > 1.5 / 255
    return np.where(changed, drawn, pixels).astype(np.float32)


def _draw_letter(draw: ImageDraw.ImageDraw, letter: str, centre: tuple[float, float], height: int, box: str) -> None:
    """Draw one marker letter and its plate."""
    x, y = centre
    half = height * 0.62
    if box != "plain":
        draw.rectangle((x - half, y - half, x + half, y + half), fill=235 if box == "plate" else 90)
    font = ImageFont.load_default(height)
    draw.text((x, y), letter, fill=20 if box == "plate" else 250, font=font, anchor="mm")


def _draw_ruler(draw: ImageDraw.ImageDraw, width: int, height: int, pixel_mm: float, edge: str) -> None:
    """Draw a ruler with centimetre marks along one edge."""
    x, inward = (width * 0.03, 1) if edge == "left" else (width * 0.97, -1)
    thick = max(1, round(0.6 / pixel_mm))
    for number in range(int(height * pixel_mm / 10) + 1):
        length = (8 if number % 5 == 0 else 4) / pixel_mm
        y = number * 10 / pixel_mm
        draw.line((x, y, x + inward * length, y), fill=245, width=thick)


def draw_collimation(pixels: FloatImage, pixel_mm: float, overlay: Overlay) -> FloatImage:
    """The film (H, W) with a uniform border outside the collimated field."""
    if not any(overlay.shutter_mm):
        return pixels
    rows, columns = pixels.shape
    left, top, right, bottom = (width / pixel_mm for width in overlay.shutter_mm)
    slope = np.float32(np.tan(np.deg2rad(overlay.shutter_deg)))
    x = np.arange(columns, dtype=np.float32) - slope * (np.arange(rows, dtype=np.float32)[:, None] - rows / 2)
    y = np.arange(rows, dtype=np.float32)[:, None] + slope * (np.arange(columns, dtype=np.float32) - columns / 2)
    open_field = np.ones(pixels.shape, dtype=bool)
    for width, distance in ((left, x), (right, columns - 1 - x), (top, y), (bottom, rows - 1 - y)):
        if width > 0:
            open_field &= distance >= width
    return np.where(open_field, pixels, np.float32(overlay.shutter_grey)).astype(np.float32)


Grid = tuple[FloatImage, FloatImage]  # x and y in mm, broadcastable to (H, W)


def distractor_path(
    shape: tuple[int, int], pixel_mm: float, exposure: Exposure, texture: FloatImage, rng: np.random.Generator
) -> FloatImage:
    """Line integral of attenuation (H, W) of a random object other than a knee.

    Args:
        shape: (H, W).
        pixel_mm: size of a pixel.
        exposure: gives the energy.
        texture: (H, W) trabecular texture.
        rng: random generator of the object.
    """
    kinds: tuple[Callable[[Grid, np.random.Generator], tuple[FloatImage, FloatImage]], ...]
    kinds = (_blank, _shafts, _shafts, _hand, _skull, _chest, _shapes)
    kind = kinds[rng.integers(len(kinds))]
    x = (np.arange(shape[1], dtype=np.float32) - np.float32(shape[1] / 2)) * np.float32(pixel_mm)
    y = (np.arange(shape[0], dtype=np.float32) - np.float32(shape[0] / 2))[:, None] * np.float32(pixel_mm)
    angle = rng.uniform(0, 2 * np.pi) if kind in (_shafts, _hand, _shapes) else rng.normal(0, 0.1)
    rotated_x, rotated_y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    soft, mineral = kind((rotated_x.astype(np.float32), rotated_y.astype(np.float32)), rng)
    muscle, bone = attenuation_per_mm("muscle", exposure.energy_kev), attenuation_per_mm("bone", exposure.energy_kev)
    textured = mineral * np.clip(1 + 0.12 * texture, 0.2, 2)
    return np.asarray(muscle * soft + (bone - muscle) * textured, dtype=np.float32)


def _ellipsoid(grid: Grid, centre: tuple[float, float], half: tuple[float, float], depth: float) -> FloatImage:
    """Thickness in mm of an ellipsoid."""
    x, y = (grid[0] - centre[0]) / half[0], (grid[1] - centre[1]) / half[1]
    return np.asarray(depth * np.sqrt(np.clip(1 - x * x - y * y, 0, None)), dtype=np.float32)


def _tube(grid: Grid, start: tuple[float, float], end: tuple[float, float], half: float, knob: float) -> FloatImage:
    """Mineral thickness in mm of a long bone from start to end, widened by the factor `knob` at both ends."""
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
    """Nothing in the beam, or a uniform slab.

    This function and the next five return the thickness in mm of soft tissue and of mineral, each (H, W).
    """
    slab = np.zeros_like(grid[0] + grid[1]) + np.float32(rng.choice([0.0, rng.uniform(5, 80)]))
    return slab, np.zeros_like(slab)


def _shafts(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """One or two shafts of long bones without a joint, like a thigh, lower leg or forearm."""
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
    """A hand: five rays of short bones, a wrist and a forearm."""
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
    fingers = np.maximum(fingers, (np.abs(grid[0]) < 30) & (grid[1] > 60))  # the forearm
    return np.maximum(gaussian_filter(fingers, 2) * np.float32(16), palm), mineral


def _skull(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """A skull: a shell with orbits and a jaw."""
    half = (float(rng.uniform(65, 85)), float(rng.uniform(85, 110)))
    outer = _ellipsoid(grid, (0, -20), half, 150)
    inner = _ellipsoid(grid, (0, -20), (half[0] - 6, half[1] - 6), 140)
    mineral = outer - inner + 0.06 * inner
    for side in (-1, 1):
        mineral -= 0.35 * _ellipsoid(grid, (side * 32, 5), (20, 18), 30)
    mineral += 0.4 * _ellipsoid(grid, (0, 75), (45, 35), 40)
    return np.maximum(outer, _ellipsoid(grid, (0, 120), (50, 90), 90)), np.clip(mineral, 0, None)


def _chest(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """A chest with two dark lungs, ribs and a spine, scaled to the film."""
    scale = float(np.ptp(grid[0])) / 330
    scaled = (grid[0] / scale, grid[1] / scale)
    soft = _ellipsoid(scaled, (0, 30), (165, 320), 130)
    for side in (-1, 1):
        soft = soft - _ellipsoid(scaled, (side * 72, -10), (58, 120), 90)
    mineral = 8 * np.exp(-((scaled[0] / 16) ** 2)) * (1 + 0.3 * np.sin(scaled[1] / 5))
    rise = float(rng.uniform(0.15, 0.35))
    for row in range(-7, 8):
        bend = scaled[1] - row * 22 - rise * np.abs(scaled[0]) + scaled[0] ** 2 / 250
        mineral = mineral + 2.2 * np.exp(-((bend / 4.5) ** 2)) * (np.abs(scaled[0]) < 140)
    return np.clip(soft, 0, None).astype(np.float32), np.asarray(mineral, dtype=np.float32)


def _shapes(grid: Grid, rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """Randomly placed ellipsoids, like packaging or a foot in any projection."""
    soft = _ellipsoid(
        grid, (float(rng.normal(0, 30)), 0), (float(rng.uniform(30, 120)), float(rng.uniform(60, 200))), 80
    )
    mineral = np.zeros_like(soft)
    for _ in range(int(rng.integers(1, 9))):
        place = (float(rng.normal(0, 60)), float(rng.normal(0, 80)))
        half = (float(rng.uniform(5, 30)), float(rng.uniform(5, 30)))
        mineral += 0.25 * _ellipsoid(grid, place, half, 30)
    return soft, mineral
