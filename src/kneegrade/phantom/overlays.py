"""What lies over a film beside the leg: side markers, shutters, unexposed strips and scale marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Overlay:
    """Markers and borders of a film.

    Attributes:
        letters: text drawn beside each knee ("" = none); `places`: (x, y) shares of the film; `height_mm`: of a letter.
        box: "plain" bright letter, "plate" dark letter on a bright plate, "frame" bright letter on a grey plate.
        shutter_mm: width of the border left, top, right, bottom; `shutter_grey`: its grey; `shutter_deg`: its tilt.
        text: a line of small print at an edge ("" = none).
        ruler: edge of a ruler with a mark every 10 mm, "left", "right" or "" (none).
        ball_mm: diameter of a calibration ball, 0 = none; `ball_at`: (x, y) shares of the film.
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
    """Draw markers and borders for a film with these knees."""
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
    """The film (H, W) with its letters, small print, ruler and calibration ball."""
    canvas = Image.fromarray((pixels * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    height = max(6, round(overlay.height_mm / pixel_mm))
    for letter, (x, y) in zip(overlay.letters, overlay.places, strict=True):
        if letter:
            _letter(draw, letter, (x * canvas.width, y * canvas.height), height, overlay.box)
    if overlay.text:
        font = ImageFont.load_default(max(6, height // 2))
        draw.text((canvas.width * 0.04, canvas.height * 0.94), overlay.text, fill=230, font=font)
    if overlay.ruler:
        _ruler(draw, canvas.width, canvas.height, pixel_mm, overlay.ruler)
    if overlay.ball_mm:
        x, y = overlay.ball_at[0] * canvas.width, overlay.ball_at[1] * canvas.height
        half = overlay.ball_mm / pixel_mm / 2
        draw.ellipse((x - half, y - half, x + half, y + half), fill=252)
    drawn = np.asarray(canvas, dtype=np.float32) / np.float32(255)
    changed = np.abs(drawn - pixels) > 1.5 / 255
    return np.where(changed, drawn, pixels).astype(np.float32)


def _letter(draw: ImageDraw.ImageDraw, letter: str, middle: tuple[float, float], height: int, box: str) -> None:
    """One marker letter with its plate."""
    x, y = middle
    half = height * 0.62
    if box != "plain":
        draw.rectangle((x - half, y - half, x + half, y + half), fill=235 if box == "plate" else 90)
    font = ImageFont.load_default(height)
    draw.text((x, y), letter, fill=20 if box == "plate" else 250, font=font, anchor="mm")


def _ruler(draw: ImageDraw.ImageDraw, width: int, height: int, pixel_mm: float, edge: str) -> None:
    """A scale of centimetres along one edge."""
    x, inward = (width * 0.03, 1) if edge == "left" else (width * 0.97, -1)
    thick = max(1, round(0.6 / pixel_mm))
    for number in range(int(height * pixel_mm / 10) + 1):
        length = (8 if number % 5 == 0 else 4) / pixel_mm
        y = number * 10 / pixel_mm
        draw.line((x, y, x + inward * length, y), fill=245, width=thick)


def draw_collimation(pixels: FloatImage, pixel_mm: float, overlay: Overlay) -> FloatImage:
    """The film (H, W) with its border outside the collimated field."""
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
