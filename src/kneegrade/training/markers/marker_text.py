"""Coverage masks of texts for drawn side markers: letters in the fonts of matplotlib or as strokes, with initials.

matplotlib is installed with kneegrade; its fonts are used for training only. Phantom films draw their letters in
another font.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kneegrade.errors import UsageError

FloatImage = NDArray[np.float32]

FONT_NAMES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol", "cmss10", "cmr10",
    "cmb10", "cmtt10",
)  # fmt: skip
SANS_SHARE = 0.6  # of the letters in one of the first six fonts, or drawn with strokes
STROKE_SHARE = 0.25  # of all letters
# Letters as strokes in a unit square, x to the right and y down: like letters of lead or of a plotter.
STROKES = {
    "R": (((0, 1), (0, 0), (0.6, 0), (0.85, 0.12), (0.85, 0.4), (0.6, 0.53), (0, 0.53)), ((0.45, 0.53), (0.9, 1))),
    "L": (((0, 0), (0, 1), (0.75, 1)),),
    "P": (((0, 1), (0, 0), (0.6, 0), (0.85, 0.12), (0.85, 0.4), (0.6, 0.53), (0, 0.53)),),
    "A": (((0, 1), (0.45, 0), (0.9, 1)), ((0.15, 0.65), (0.75, 0.65))),
    "E": (((0.75, 0), (0, 0), (0, 1), (0.75, 1)), ((0, 0.5), (0.6, 0.5))),
    "F": (((0.75, 0), (0, 0), (0, 1)), ((0, 0.5), (0.6, 0.5))),
    "K": (((0, 0), (0, 1)), ((0.85, 0), (0, 0.6)), ((0.3, 0.4), (0.9, 1))),
    "B": (((0, 0), (0, 1), (0.6, 1), (0.85, 0.85), (0.85, 0.6), (0.6, 0.48), (0, 0.48)),
          ((0, 0), (0.55, 0), (0.8, 0.12), (0.8, 0.36), (0.6, 0.48))),
    "T": (((0, 0), (0.9, 0)), ((0.45, 0), (0.45, 1))),
    "I": (((0.4, 0), (0.4, 1)),),
    "U": (((0, 0), (0, 0.8), (0.25, 1), (0.6, 1), (0.85, 0.8), (0.85, 0)),),
    "H": (((0, 0), (0, 1)), ((0.85, 0), (0.85, 1)), ((0, 0.5), (0.85, 0.5))),
    "N": (((0, 1), (0, 0), (0.85, 1), (0.85, 0)),),
    "Z": (((0, 0), (0.85, 0), (0, 1), (0.85, 1)),),
    "7": (((0, 0), (0.8, 0), (0.3, 1)),),
    "4": (((0.65, 1), (0.65, 0), (0, 0.7), (0.9, 0.7)),),
    "D": (((0, 0), (0, 1), (0.5, 1), (0.85, 0.7), (0.85, 0.3), (0.5, 0), (0, 0)),),
}  # fmt: skip
LETTERS = "ABCDEFGHIJKMNOPQSTUVWXYZ"  # all but L and R
LIKE_R, LIKE_L = "PBKAFDHN", "EIFTUCZ4174JJJ"
WORDS = (
    "ERECT", "WEIGHT BEARING", "STANDING", "AP", "PA", "PORTABLE", "SUPINE", "UPRIGHT", "PT ID 001", "KNEE", "LAT",
    "CROSS TABLE", "SUPERVISED", "70KV", "FFD 115", "HOSPITAL", "RADIOLOGY", "LATERAL", "ROTATED", "LOAD", "WB",
    "AXIAL",
)  # fmt: skip


@lru_cache(maxsize=512)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_folder() / f"{name}.ttf"), size)


@lru_cache(maxsize=1)
def font_folder() -> Path:
    """Folder of the fonts that matplotlib brings.

    Raises:
        UsageError: a font is missing.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    missing = [name for name in FONT_NAMES if not (folder / f"{name}.ttf").is_file()]
    if missing:
        raise UsageError(
            f"matplotlib {matplotlib.__version__} has no font {missing[0]}.ttf, which draws markers for training; "
            "install the version that the training recipe names."
        )
    return folder


def text_mask(text: str, unit: float, rng: np.random.Generator) -> FloatImage:
    """(h, w) coverage of a text, cropped to its ink, capitals `unit` px high and perhaps stretched."""
    if all(letter in STROKES for letter in text) and rng.random() < STROKE_SHARE:
        mask = _stroke_mask(text, unit, rng)
    else:
        group = FONT_NAMES[:6] if rng.random() < SANS_SHARE else FONT_NAMES[6:]
        font = _font(str(rng.choice(group)), max(8, round(unit / 0.71)))
        left, top, right, bottom = font.getbbox(text)
        picture = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
        ImageDraw.Draw(picture).text((1 - left, 1 - top), text, fill=255, font=font)
        mask = picture
    width = max(2, round(mask.width * unit / mask.height * float(np.exp(rng.normal(0, 0.1)))))
    return np.asarray(mask.resize((width, max(2, round(unit))), Image.Resampling.BOX), dtype=np.float32) / np.float32(
        255
    )


def _stroke_mask(text: str, unit: float, rng: np.random.Generator) -> Image.Image:
    size, line = max(8, round(unit)), max(1.0, unit * float(rng.uniform(0.09, 0.24)))
    narrow, advance = float(rng.uniform(0.6, 0.95)), float(rng.uniform(1.0, 1.4))
    step = size * narrow * advance
    picture = Image.new("L", (round(step * (len(text) - 1) + size * narrow + 2 * line), round(size + 2 * line)))
    draw = ImageDraw.Draw(picture)
    for number, letter in enumerate(text):
        for stroke in STROKES[letter]:
            points = [(line + number * step + x * size * narrow, line + y * size) for x, y in stroke]
            draw.line(points, fill=255, width=max(1, round(line)), joint="curve")
            for x, y in (points[0], points[-1]):
                draw.ellipse((x - line / 2, y - line / 2, x + line / 2, y + line / 2), fill=255)
    box = picture.getbbox()
    return picture.crop(box) if box else picture


def first_width(letters: FloatImage, text: str) -> float:
    """Width of the first letter: up to the first empty column after its ink, or its share of a longer text."""
    if len(text) == 1:
        return float(letters.shape[1])
    empty = np.flatnonzero(letters.max(0) < 0.1)
    return float(empty[0]) if len(empty) else letters.shape[1] / len(text)


def with_initials(letters: FloatImage, unit: float, rng: np.random.Generator) -> FloatImage:
    """The text with one to three smaller letters or digits below or beside it, as technologists' markers have."""
    text = "".join(rng.choice(list(LETTERS + "0123456789"), rng.integers(1, 4)).tolist())
    small = text_mask(text, unit * float(rng.uniform(0.35, 0.75)), rng)
    gap = round(unit * float(rng.uniform(0.2, 0.6)))
    if rng.random() < 0.5:  # below; the first letter stays at the top left
        shape = (letters.shape[0] + gap + small.shape[0], max(letters.shape[1], small.shape[1]))
        top, left = letters.shape[0] + gap, 0
    else:
        shape = (max(letters.shape[0], small.shape[0]), letters.shape[1] + gap + small.shape[1])
        top, left = int(rng.integers(0, shape[0] - small.shape[0] + 1)), letters.shape[1] + gap
    both = np.zeros(shape, dtype=np.float32)
    both[: letters.shape[0], : letters.shape[1]] = letters
    both[top : top + small.shape[0], left : left + small.shape[1]] = small
    return both
