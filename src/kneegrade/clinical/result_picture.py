"""The film with its results as one RGB picture: outlines, calipers and a table of the seven grades for each knee.

The tables stand below the film or to its right, whichever leaves the film larger, and cover nothing of it. Text is
legible when the picture is shown with 1024 pixels.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.clinical.codes import ascii_text
from kneegrade.clinical.drawing import knee_drawing
from kneegrade.clinical.job import RESEARCH_USE
from kneegrade.clinical.result_text import LINE_CHARACTERS, warning_lines, width_texts
from kneegrade.reporting.report_labels import SIDE_LABELS, reason_of
from kneegrade.results import Finding, GradedKnee, GradedRadiograph, GradeResult

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    Font = FreeTypeFont

LONGEST_PX: Final = 1536  # longer side of the picture
BACKGROUND, TEXT, FAINT, WARNING = (16, 20, 24), (240, 240, 240), (150, 158, 166), (255, 190, 80)
OUTLINE, CALIPER, GRADE, SET = (60, 220, 90), (255, 255, 90), (255, 255, 255), (90, 170, 255)
TITLE_PX, TEXT_PX, SMALL_PX = 34, 25, 21  # font sizes
TABLE_WIDTH, ROW_HEIGHT, MARGIN, CELL_WIDTH = 640, 33, 18, 66
SMALL_LINE = SMALL_PX + 8
MAX_NOTE_LINES = 4
ROWS: Final = {
    "kl": "Kellgren-Lawrence",
    "jsn_medial": "JSN medial",
    "jsn_lateral": "JSN lateral",
    "osteophyte_femur_medial": "Osteophyte femur med.",
    "osteophyte_femur_lateral": "Osteophyte femur lat.",
    "osteophyte_tibia_medial": "Osteophyte tibia med.",
    "osteophyte_tibia_lateral": "Osteophyte tibia lat.",
}
TABLE_HEIGHT = MARGIN + TITLE_PX + 8 + ROW_HEIGHT * (len(ROWS) + 1) + 8 + 2 * SMALL_LINE

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ResultPicture:
    """A picture and its scale.

    Attributes:
        pixels: (H, W, 3) uint8, the film in the upper left corner.
        scale: pixels of the picture per pixel of the film.
    """

    pixels: NDArray[np.uint8]
    scale: float


def result_picture(
    film: GradedRadiograph, pixels: NDArray[np.float32], *, set_level: float | None, note: str = ""
) -> ResultPicture:
    """The picture of a film and its results, at most `LONGEST_PX` wide and high.

    Args:
        film: the results.
        pixels: (H, W) float32 in [0, 1], bone bright: `Radiograph.pixels`.
        set_level: of `Report`.
        note: ASCII text below the line on research use, for example software and weights.
    """
    from PIL import Image, ImageDraw

    height, width = pixels.shape
    tables = max(1, len(film.knees))
    footer = [*((line, WARNING) for line in (*warning_lines(film), RESEARCH_USE)), (note, FAINT)]
    footer_height = SMALL_LINE * len(footer) + 10
    layouts = (arrange(width, height, tables, footer_height) for arrange in (_below, _beside))
    layout = max(layouts, key=lambda layout: layout.scale)
    size = (max(1, round(width * layout.scale)), max(1, round(height * layout.scale)))
    grey = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    picture = Image.new("RGB", layout.size, BACKGROUND)
    picture.paste(grey.resize(size, Image.Resampling.BOX).convert("RGB"), (0, 0))
    _draw_lines(picture, film, layout.scale)
    draw = ImageDraw.Draw(picture)
    if not film.knees:
        _draw_refusal(draw, "No knee graded", reason_of(film), layout.tables[0])
    for knee, corner in zip(film.knees, layout.tables, strict=False):
        _draw_knee(draw, knee, corner, set_level)
    for number, (text, colour) in enumerate(footer):
        top = layout.size[1] - footer_height + 6 + SMALL_LINE * number
        draw.text((MARGIN, top), text, colour, _font(SMALL_PX))
    return ResultPicture(np.asarray(picture), layout.scale)


@dataclass(frozen=True)
class _Layout:
    """Size of the picture, scale of the film, and upper left corners of the tables."""

    size: tuple[int, int]
    scale: float
    tables: tuple[tuple[int, int], ...]


def _below(width: int, height: int, tables: int, footer_height: int) -> _Layout:
    """The tables side by side below the film, from left to right like the knees."""
    scale = min(1.0, LONGEST_PX / width, (LONGEST_PX - TABLE_HEIGHT - footer_height) / height)
    shown_width, shown_height = round(width * scale), round(height * scale)
    total = min(LONGEST_PX, max(shown_width, TABLE_WIDTH * tables))
    step = total // tables
    corners = tuple((i * step, shown_height) for i in range(tables))
    return _Layout((total, shown_height + TABLE_HEIGHT + footer_height), scale, corners)


def _beside(width: int, height: int, tables: int, footer_height: int) -> _Layout:
    """The tables one below the other to the right of the film."""
    scale = min(1.0, (LONGEST_PX - TABLE_WIDTH) / width, (LONGEST_PX - footer_height) / height)
    shown_width, shown_height = round(width * scale), round(height * scale)
    total = max(shown_height, TABLE_HEIGHT * tables) + footer_height
    corners = tuple((shown_width, i * TABLE_HEIGHT) for i in range(tables))
    return _Layout((shown_width + TABLE_WIDTH, min(LONGEST_PX, total)), scale, corners)


def _draw_lines(picture: "Image", film: GradedRadiograph, scale: float) -> None:
    """Draw outlines, calipers and the names of the compartments."""
    from PIL import ImageDraw

    draw, font = ImageDraw.Draw(picture), _font(SMALL_PX)

    def place(points: NDArray[np.float64]) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in (points + 0.5) * scale - 0.5]

    for knee in film.knees:
        drawing = knee_drawing(knee)
        if drawing is None:
            continue
        for stretch in drawing.outlines:
            draw.line(place(stretch), OUTLINE, 2)
        for where, line in drawing.calipers.items():
            ends = place(line)
            draw.line(ends, CALIPER, 4)
            x, y = max(ends, key=lambda end: end[1])
            draw.text((x, y + 14), where, CALIPER, font, anchor="ma", stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_knee(draw: "ImageDraw", knee: GradedKnee, corner: tuple[int, int], set_level: float | None) -> None:
    """Draw the table of a knee, or why it has none."""
    if knee.grades is None:
        _draw_refusal(draw, f"{SIDE_LABELS[knee.side]}: not graded", reason_of(knee), corner)
        return
    x, y = corner[0] + MARGIN, corner[1] + MARGIN
    draw.text((x, y), f"{SIDE_LABELS[knee.side]}: KL {knee.grades['kl'].grade}", TEXT, _font(TITLE_PX))
    y += TITLE_PX + 8
    if knee.abstain:
        draw.text((x, y + ROW_HEIGHT // 2), "to be decided by a reader", WARNING, _font(SMALL_PX), anchor="lm")
    _draw_heading(draw, x, y)
    for name, label in ROWS.items():
        y += ROW_HEIGHT
        draw.text((x, y + ROW_HEIGHT // 2), label, TEXT, _font(TEXT_PX), anchor="lm")
        _draw_classes(draw, knee.grades[name], _first_cell(x), y)
    y += ROW_HEIGHT + 8
    if knee.joint_space is not None:
        draw.text((x, y), "JSW " + ", ".join(width_texts(knee.joint_space)), TEXT, _font(SMALL_PX))
    level = "" if set_level is None else f", underlined: {100 * set_level:.0f} % set"
    draw.text((x, y + SMALL_LINE), f"Probability in %, boxed: grade{level}", FAINT, _font(SMALL_PX))


def _first_cell(x: int) -> int:
    """Left edge of the cell of grade 0."""
    return x + TABLE_WIDTH - 2 * MARGIN - 5 * CELL_WIDTH


def _draw_heading(draw: "ImageDraw", x: int, y: int) -> None:
    for grade in range(5):
        centre = _first_cell(x) + CELL_WIDTH * grade + CELL_WIDTH // 2
        draw.text((centre, y + ROW_HEIGHT // 2), str(grade), FAINT, _font(TEXT_PX), anchor="mm")


def _draw_classes(draw: "ImageDraw", result: GradeResult, x: int, y: int) -> None:
    """Draw the probability of each class as a number on a cell whose brightness follows it."""
    font = _font(TEXT_PX)
    for grade, probability in enumerate(result.probabilities):
        left = x + CELL_WIDTH * grade
        box = (left + 2, y + 2, left + CELL_WIDTH - 3, y + ROW_HEIGHT - 3)
        is_grade = grade == result.grade
        draw.rectangle(box, _shade(probability), GRADE if is_grade else None, 2 if is_grade else 0)
        if grade in (result.prediction_set or ()):
            draw.rectangle((box[0], box[3] - 2, box[2], box[3] + 1), SET)
        centre = (left + CELL_WIDTH // 2, y + ROW_HEIGHT // 2 - 2)
        draw.text(centre, _percent(probability), TEXT if is_grade else FAINT, font, anchor="mm")


def _shade(probability: float) -> Colour:
    """Colour of a cell, from the background to a medium green."""
    red, green, blue = BACKGROUND
    return round(red + 14 * probability), round(green + 96 * probability), round(blue + 50 * probability)


def _percent(probability: float) -> str:
    return "<1" if 0 < probability < 0.005 else f"{100 * probability:.0f}"


def _draw_refusal(draw: "ImageDraw", title: str, reason: Finding | None, corner: tuple[int, int]) -> None:
    x, y = corner[0] + MARGIN, corner[1] + MARGIN
    draw.text((x, y), title, WARNING, _font(TITLE_PX))
    for line in _wrapped("" if reason is None else reason.message):
        draw.text((x, y + TITLE_PX + 12), line, TEXT, _font(SMALL_PX))
        y += SMALL_LINE


def _wrapped(text: str) -> Sequence[str]:
    """`text` in short lines of ASCII."""
    return textwrap.wrap(ascii_text(text), LINE_CHARACTERS, max_lines=MAX_NOTE_LINES, placeholder=" ...")


def _font(size_px: int) -> "Font":
    from PIL import ImageFont

    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; install the wheel of pillow.")
    return font
