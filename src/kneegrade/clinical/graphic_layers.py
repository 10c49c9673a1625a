"""What a presentation state draws on a film: layers of polylines and lines of text, in the points of DICOM."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kneegrade.clinical.drawing import knee_drawing
from kneegrade.clinical.film_points import dicom_points
from kneegrade.clinical.job import RESEARCH_USE
from kneegrade.clinical.result_text import film_lines, knee_lines, warning_lines
from kneegrade.results import GradedRadiograph

LINE_HEIGHT: Final = 0.026  # height of a line of text and of the gap below it, as fractions of the film's longer side
LINE_GAP: Final = 0.004
TEXT_WIDTH: Final = 0.42  # width of the box of a line, as a fraction of the film's width
LABEL_WIDTH: Final = 0.1  # width of the box of a caliper's label, as a fraction of the film's longer side

Size = tuple[int, int]


class Layer(NamedTuple):
    """A graphic layer: its name, its order (1 is drawn first), what it shows, and its colour in CIELab."""

    name: str
    order: int
    description: str
    cielab: tuple[float, float, float]


OUTLINES: Final = Layer("OUTLINES", 1, "Outlines of femur and tibia", (75.0, -60.0, 60.0))
CALIPERS: Final = Layer("CALIPERS", 2, "Lines along which joint space is measured", (97.0, -20.0, 90.0))
GRADES: Final = Layer("GRADES", 3, "Grades by kneegrade", (90.0, -40.0, 40.0))


class TextLine(NamedTuple):
    """A line of ASCII text in a box (left, top, right, bottom)."""

    text: str
    box: tuple[float, float, float, float]


class LayerContent(NamedTuple):
    """The polylines (N, 2) and the lines of text of a layer."""

    layer: Layer
    polylines: list[NDArray[np.float64]]
    lines: list[TextLine]


def layer_contents(film: GradedRadiograph, size: Size, set_level: float | None) -> list[LayerContent]:
    """The content of the layers that are not empty, in pixels of the film from its upper left corner.

    Args:
        film: the results.
        size: (rows, columns) of the film.
        set_level: of `Report`.
    """
    outlines, calipers = LayerContent(OUTLINES, [], []), LayerContent(CALIPERS, [], [])
    grades = LayerContent(GRADES, [], _bottom_lines([RESEARCH_USE, *reversed(warning_lines(film))], size))
    for number, knee in enumerate(film.knees):
        drawing, left = knee_drawing(knee), size[1] * number / len(film.knees)
        if drawing is not None:
            left = drawing.left
            outlines.polylines.extend(dicom_points(stretch, size) for stretch in drawing.outlines)
            for where, caliper in drawing.calipers.items():
                ends = dicom_points(caliper, size)
                calipers.polylines.append(ends)
                calipers.lines.append(_caliper_label(where, ends, size))
        grades.lines.extend(_text_block(knee_lines(knee, set_level), left, size))
    if not film.knees:
        grades.lines.extend(_text_block(film_lines(film), 0.0, size))
    return [content for content in (outlines, calipers, grades) if content.polylines or content.lines]


def _text_block(texts: list[str], left: float, size: Size) -> list[TextLine]:
    """Lines from the upper edge of the film downwards, so that the joint stays free.

    One text object per line: viewers differ in what they make of a line break.
    """
    step, width = (LINE_HEIGHT + LINE_GAP) * max(size), TEXT_WIDTH * size[1]
    left = min(max(left, 1.0), size[1] - width)
    return [_line(text, left, step * (number + 0.5), width, size) for number, text in enumerate(texts)]


def _caliper_label(where: str, ends: NDArray[np.float64], size: Size) -> TextLine:
    """The name of a compartment below its caliper."""
    (x, y), width = ends[np.argmax(ends[:, 1])], LABEL_WIDTH * max(size)
    return _line(where, float(x) - width / 4, float(y) + 2 * LINE_GAP * max(size), width, size)


def _bottom_lines(texts: list[str], size: Size) -> list[TextLine]:
    """Lines from the lower edge of the film upwards."""
    lowest, step = size[0] - 1.5 * LINE_HEIGHT * max(size), (LINE_HEIGHT + LINE_GAP) * max(size)
    return [_line(text, 1.0, lowest - number * step, size[1] - 2.0, size) for number, text in enumerate(texts)]


def _line(text: str, left: float, top: float, width: float, size: Size) -> TextLine:
    """A line of text in a box that lies on the film."""
    x = np.clip([left, left + width], 0.0, size[1])
    y = np.clip([top, top + LINE_HEIGHT * max(size)], 0.0, size[0])
    return TextLine(text, (float(x[0]), float(y[0]), float(x[1]), float(y[1])))
