"""Drawn side markers as layers: a text with its plate, frame, disc or beads, tilted, to be blended into a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kneegrade.training.markers.marker_text import FloatImage, first_width, text_mask, with_initials

SUPERSAMPLING = 2


@dataclass(frozen=True, eq=False)
class MarkerLayers:
    """Text of a marker (or of something else), with the place of its first letter and the layers of its drawing.

    Pixels become `(1 - alpha) * pixels + light`; `ink` is the coverage of the text alone. All are (h, w).
    """

    alpha: FloatImage
    light: FloatImage
    ink: FloatImage
    x: float
    y: float


def marker_layers(
    text: str, height: float, rng: np.random.Generator, *, mirrored: bool, decorated: bool, tilt_deg: float
) -> MarkerLayers:
    """The layers of a text whose capital letters are `height` px high; origin at the centre of its first letter."""
    unit = height * SUPERSAMPLING
    letters = text_mask(text, unit, rng)
    first = first_width(letters, text)
    if text in ("R", "L", "RT", "LT", "RIGHT", "LEFT") and rng.random() < 0.25:
        letters = with_initials(letters, unit, rng)
    margin = round(unit * rng.uniform(0.25, 0.8)) if decorated else 2
    margin += round(unit * 0.6)
    mask = np.pad(letters, margin)
    origin = (margin + first / 2, margin + unit / 2)
    alpha, grey = _layers(mask, unit, margin - round(unit * 0.6), decorated, rng)
    layers = (alpha, grey * alpha, mask)
    if mirrored:
        layers = (layers[0][:, ::-1], layers[1][:, ::-1], layers[2][:, ::-1])
        origin = (mask.shape[1] - origin[0], origin[1])
    return _turned(layers, origin, tilt_deg)


def _layers(
    mask: FloatImage, unit: float, margin: int, decorated: bool, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage]:
    """Alpha and grey level of a letter with its plate, frame, disc or beads (or nothing)."""
    style = rng.choice(
        ["bare", "bright plate", "dark plate", "frame", "disc", "beads"], p=[0.4, 0.2, 0.2, 0.1, 0.07, 0.03]
    )
    ink = float(rng.uniform(0.6, 1.0))
    opacity = float(rng.uniform(0.6, 1.0))
    alpha, grey = mask * opacity, np.full_like(mask, ink)
    if not decorated or style == "bare":
        if rng.random() < 0.1:
            grey[:] = rng.uniform(0, 0.3)
        return alpha, grey
    if style in ("bright plate", "dark plate"):
        plate = float(rng.uniform(0.55, 1.0) if style == "bright plate" else rng.uniform(0.1, 0.5))
        ink = plate - float(rng.uniform(0.2, 0.6)) if style == "bright plate" else plate + float(rng.uniform(0.25, 0.5))
        shape, edge = _outline(mask.shape, unit, margin, disc=False, rng=rng)
        grey = mask * ink + (1 - mask) * plate
        if rng.random() < 0.5:
            grey = np.where(edge, float(rng.uniform(0, 1)), grey)
        if rng.random() < 0.6:
            grey = grey + _bevel(mask, shape, unit, rng)
        return np.maximum(shape * float(rng.uniform(0.7, 1.0)), alpha), np.clip(grey, 0, 1).astype(np.float32)
    _, edge = _outline(mask.shape, unit, margin, disc=style in ("disc", "beads"), rng=rng)
    if style == "beads":
        edge = edge & _dotted(mask.shape)
    return np.maximum(alpha, edge * opacity).astype(np.float32), grey


def _bevel(mask: FloatImage, shape: FloatImage, unit: float, rng: np.random.Generator) -> FloatImage:
    """Light on one side of the letter and the plate and shadow on the other, as digital markers have: (h, w)."""
    step = max(1, round(unit * float(rng.uniform(0.03, 0.12))))
    letter, plate = (
        np.roll(layer, (step, step), (0, 1)) - np.roll(layer, (-step, -step), (0, 1)) for layer in (mask, shape)
    )
    depth, sign = rng.uniform(0, 0.5, 2), float(rng.choice([-1.0, 1.0]))
    return np.asarray(sign * (depth[0] * letter - depth[1] * plate * shape), dtype=np.float32)


def _outline(
    shape: tuple[int, ...], unit: float, margin: int, *, disc: bool, rng: np.random.Generator
) -> tuple[FloatImage, NDArray[np.bool_]]:  # fmt: skip
    """(h, w) plate or disc around the text, and its edge."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inset = round(unit * 0.6) - max(0, margin)
    inset = max(1, inset)
    if disc:
        half = max(shape[0], shape[1]) / 2 - inset
        distance = half - np.hypot(columns - (shape[1] - 1) / 2, rows - (shape[0] - 1) / 2)
    else:
        distance = np.minimum.reduce(
            [columns - inset, shape[1] - 1 - inset - columns, rows - inset, shape[0] - 1 - inset - rows]
        ).astype(np.float64)
    line = max(1.0, unit * float(rng.uniform(0.03, 0.15)))
    return (distance >= 0).astype(np.float32), (distance >= 0) & (distance < line)


def _dotted(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(h, w) every second of 28 sectors about the centre."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    angle = np.arctan2(rows - shape[0] / 2, columns - shape[1] / 2)
    return np.asarray(np.sin(angle * 14) > 0)


def _turned(
    layers: tuple[FloatImage, FloatImage, FloatImage], origin: tuple[float, float], tilt_deg: float
) -> MarkerLayers:
    """The layers (alpha, light, ink) rotated about their centre and reduced to the resolution of the picture."""
    rows, columns = layers[0].shape
    pictures = [
        Image.fromarray(np.ascontiguousarray(layer, dtype=np.float32)).rotate(
            tilt_deg, Image.Resampling.BILINEAR, expand=True
        )
        for layer in layers
    ]
    width, height = pictures[0].size
    angle = np.deg2rad(tilt_deg)
    dx, dy = origin[0] - columns / 2, origin[1] - rows / 2
    x = width / 2 + dx * np.cos(angle) + dy * np.sin(angle)
    y = height / 2 - dx * np.sin(angle) + dy * np.cos(angle)
    size = (max(1, round(width / SUPERSAMPLING)), max(1, round(height / SUPERSAMPLING)))
    alpha, light, ink = (np.asarray(picture.resize(size, Image.Resampling.BOX)) for picture in pictures)
    return MarkerLayers(alpha, light, ink, float(x) * size[0] / width, float(y) * size[1] / height)


def overlap(
    plan: MarkerLayers, shape: tuple[int, ...], centre: tuple[float, float]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a plan that is on the picture, and its place there, where its first letter is at `centre`."""
    left, top = round(centre[0] - plan.x), round(centre[1] - plan.y)
    rows, columns = plan.alpha.shape
    y0, x0 = min(max(0, top), shape[0]), min(max(0, left), shape[1])
    y1, x1 = max(y0, min(shape[0], top + rows)), max(x0, min(shape[1], left + columns))
    return (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)), (slice(y0, y1), slice(x0, x1))


def blend(pixels: FloatImage, plan: MarkerLayers, centre: tuple[float, float]) -> None:
    """Draw layers into `pixels`, changed in place, with the first letter at `centre`."""
    part, place = overlap(plan, pixels.shape, centre)
    pixels[place] = pixels[place] * (1 - plan.alpha[part]) + plan.light[part]
