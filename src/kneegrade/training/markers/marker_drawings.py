"""Drawn side markers on backgrounds: the training data of the networks that read markers.

A marker is a letter R or L, alone or as the first letter of RT, LT, RIGHT or LEFT, with or without initials, plate,
frame or disc. Other letters, digits, words and shapes are drawn too and must not be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import maximum_filter

from kneegrade.training.markers.marker_layers import MarkerLayers, blend, marker_layers, overlap
from kneegrade.training.markers.marker_text import LETTERS, LIKE_L, LIKE_R, WORDS, FloatImage

MIN_CONTRAST, MAX_TRIES = 0.14, 6  # of a letter to what is close to it


@dataclass(frozen=True)
class DrawnMarker:
    """A marker on a picture: centre (x, y) and height of its letter R or L in pixels, and the class of the letter.

    Attributes:
        kind: index into `kneegrade.anatomy.marker_networks.CLASSES`: 1 R, 2 L, 3 mirrored R, 4 mirrored L.
    """

    x: float
    y: float
    height: float
    kind: int


def draw_marker(
    pixels: FloatImage, rng: np.random.Generator, *, height: float, centre: tuple[float, float], kind: int
) -> DrawnMarker:
    """Draw a marker into `pixels`, whose letter R or L has its centre near `centre`.

    Args:
        pixels: (H, W) in [0, 1], changed in place.
        rng: of all choices.
        height: of the capital letter, in pixels.
        centre: (x, y) of the letter.
        kind: 1 R, 2 L, 3 mirrored R, 4 mirrored L.
    """
    side = "R" if kind in (1, 3) else "L"
    words = {"R": ("RT", "RIGHT"), "L": ("LT", "LEFT")}[side]
    text = side if rng.random() < 0.85 else str(rng.choice(words))
    for _ in range(MAX_TRIES):
        plan = marker_layers(text, height, rng, mirrored=kind > 2, decorated=True, tilt_deg=_tilt(rng))
        drawn = pixels.copy()
        blend(drawn, plan, centre)
        if _contrast(drawn, plan, centre) >= MIN_CONTRAST:
            break
    pixels[:] = drawn
    return DrawnMarker(*centre, height, kind)


def _contrast(drawn: FloatImage, plan: MarkerLayers, centre: tuple[float, float]) -> float:
    """Difference of grey level between the text and what is close to it, 0 where it is outside the picture."""
    near = np.asarray(maximum_filter(plan.ink, size=7)) - plan.ink
    mean = [
        (weight[part] * drawn[place]).sum() / max(float(weight[part].sum()), 1e-6)
        for weight in (plan.ink, near)
        for part, place in [overlap(plan, drawn.shape, centre)]
    ]
    return abs(float(mean[0] - mean[1]))


def draw_distractor(
    pixels: FloatImage, rng: np.random.Generator, *, height: float, centre: tuple[float, float]
) -> None:
    """Draw a letter, digit, word or shape that is no marker into `pixels`, changed in place; see `draw_marker`."""
    choice = rng.random()
    if choice < 0.3:
        like = LIKE_R if rng.random() < 0.5 else LIKE_L
        text = str(rng.choice(list(like if rng.random() < 0.6 else LETTERS + "0123456789")))
    elif choice < 0.5:
        text = str(rng.choice(WORDS))
    elif choice < 0.65:
        letters = list(LETTERS + "RLRLRL0123456789")
        text = "".join(rng.choice(letters, rng.integers(2, 8)).tolist())
        if text[0] in "RL":  # RT and LEFT would be markers
            text = str(rng.choice(list("ABDEP"))) + text
    else:
        _draw_shape(pixels, rng, height, centre)
        return
    tilt = _tilt(rng) if rng.random() < 0.7 else float(rng.choice([90.0, 180.0, 270.0])) + _tilt(rng)
    if rng.random() < 0.06 and len(text) == 1:  # a marker that lies on its side or upside down is not read
        text, tilt = str(rng.choice(["R", "L"])), float(rng.choice([90.0, 180.0, 270.0])) + rng.normal(0, 8)
    mirrored = bool(rng.random() < 0.4)
    blend(
        pixels, marker_layers(text, height, rng, mirrored=mirrored, decorated=rng.random() < 0.7, tilt_deg=tilt), centre
    )


def _tilt(rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(0, 4.0 if rng.random() < 0.7 else 16.0), -38, 38))


def _draw_shape(pixels: FloatImage, rng: np.random.Generator, height: float, centre: tuple[float, float]) -> None:
    """A bar, corner, arrow, box, disc, ring or screw: shapes of films that are no letters."""
    size = max(8, round(height * 3))
    picture = Image.new("L", (size * 2, size * 2))
    draw, middle, unit = ImageDraw.Draw(picture), size, height * 2
    line = max(1, round(unit * rng.uniform(0.08, 0.35)))
    kind = rng.integers(6)
    a, b = unit * rng.uniform(0.2, 0.6), unit * rng.uniform(0.2, 0.6)
    if kind == 0:
        draw.line((middle - a, middle, middle + a, middle), fill=255, width=line)
    elif kind == 1:
        draw.rectangle((middle - a, middle - b, middle + a, middle + b), fill=255 if rng.random() < 0.5 else 0,
                       outline=255, width=line)  # fmt: skip
    elif kind == 2:
        draw.ellipse((middle - a, middle - a, middle + a, middle + a), fill=255 if rng.random() < 0.6 else 0,
                     outline=255, width=line)  # fmt: skip
    elif kind == 3:
        draw.polygon([(middle - a, middle - b), (middle + a, middle), (middle - a, middle + b)], fill=255)
    elif kind == 4:  # a cross
        draw.line((middle - a, middle, middle + a, middle), fill=255, width=line)
        draw.line((middle, middle - a, middle, middle + a), fill=255, width=line)
    else:  # several random strokes
        points = [
            (middle + rng.normal(0, unit / 3), middle + rng.normal(0, unit / 3)) for _ in range(rng.integers(3, 6))
        ]
        draw.line(points, fill=255, width=line, joint="curve")
    picture = picture.rotate(float(rng.uniform(0, 360)) if rng.random() < 0.5 else 0, Image.Resampling.BILINEAR)
    alpha = np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
    alpha = alpha * np.float32(rng.uniform(0.5, 1.0))
    light = alpha * np.float32(rng.uniform(0.5, 1.0) if rng.random() < 0.85 else rng.uniform(0, 0.3))
    blend(pixels, MarkerLayers(alpha, light, alpha, size / 2, size / 2), centre)


def degrade(pixels: FloatImage, rng: np.random.Generator, *, blur_px: float) -> FloatImage:
    """The picture with another gamma and contrast, blurred, with noise, within [0, 1].

    Args:
        pixels: (H, W) in [0, 1].
        rng: of all choices.
        blur_px: largest standard deviation of the blur.
    """
    result = np.clip(pixels, 0, 1) ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))
    result = np.clip((result - 0.5) * np.float32(rng.uniform(0.7, 1.4)) + 0.5 + np.float32(rng.normal(0, 0.05)), 0, 1)
    if rng.random() < 0.5:
        picture = Image.fromarray((result * 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(float(rng.uniform(0, blur_px)))
        )
        result = np.asarray(picture, dtype=np.float32) / 255
    noise = rng.standard_normal(result.shape, dtype=np.float32) * np.float32(rng.choice([0.0, rng.uniform(0, 0.05)]))
    return np.asarray(np.clip(result + noise, 0, 1), dtype=np.float32)


def background_patch(backgrounds: Sequence[NDArray[np.uint8]], size: int, rng: np.random.Generator) -> FloatImage:
    """(size, size) in [0, 1]: a random part of a random background, turned and mirrored, or a plain surface.

    Args:
        backgrounds: pictures (H, W) without markers.
        size: side of the patch.
        rng: of all choices.
    """
    if rng.random() < 0.15 or not backgrounds:
        slope = np.linspace(0, float(rng.normal(0, 0.2)), size, dtype=np.float32)
        return np.asarray(np.clip(rng.choice([0.0, 0.02, rng.uniform(0, 1)]) + slope[None, :], 0, 1) *
                          np.ones((size, 1), dtype=np.float32), dtype=np.float32)  # fmt: skip
    picture = backgrounds[int(rng.integers(len(backgrounds)))]
    side = max(16, round(size * float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))))
    rows, columns = picture.shape
    top = int(rng.integers(-side // 4, max(1, rows - side * 3 // 4)))
    left = int(rng.integers(-side // 4, max(1, columns - side * 3 // 4)))
    piece = Image.fromarray(picture).crop((left, top, left + side, top + side))
    patch = np.asarray(piece.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    patch = np.rot90(patch, int(rng.integers(4)))
    return np.ascontiguousarray(patch[:, ::-1] if rng.random() < 0.5 else patch)
