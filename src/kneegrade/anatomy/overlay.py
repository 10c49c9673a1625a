"""`overlay`: a film with the outlines of its knees drawn over it, for people to judge."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.joint_space import FIXED_AT, LATERAL_AT, gap_line
from kneegrade.anatomy.landmarks import FEMUR, TIBIA
from kneegrade.anatomy.outline import Outline

if TYPE_CHECKING:
    from PIL.Image import Image

SURE, UNSURE, UNSEEN, WIDTH = (60, 220, 90), (255, 150, 0), (120, 120, 255), (255, 255, 90)
DOUBTFUL = 0.5  # point confidence

Colour = tuple[int, int, int]


def overlay(
    pixels: NDArray[np.float32], knees: Iterable[tuple[Outline, str]], longest_px: int = 1600, widths: bool = True
) -> "Image":
    """A picture of the film, at most `longest_px` long, with each outline and its label.

    Green: a landmark likely to be right within 2 % of the tibial width; orange: less likely; blue: outside the film,
    placed by the shape model. Yellow bars: joint space at the fixed positions.

    Args:
        pixels: (H, W) in [0, 1].
        knees: outlines in pixels of the film, and what to write beside each.
        longest_px: of the picture; smaller films are not enlarged.
        widths: whether to draw the bars.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    factor = min(1.0, longest_px / max(picture.size))
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, longest_px // 70))
    for outline, label in knees:
        points = (outline.points_px + 0.5) * factor - 0.5
        for part in (FEMUR, TIBIA):
            for i in range(part.start, part.stop - 1):
                draw.line([tuple(points[i]), tuple(points[i + 1])], fill=_colour(outline, i))
        if widths:
            for x in sorted({*FIXED_AT, LATERAL_AT}):
                bar = (gap_line(outline.points_px, x) + 0.5) * factor - 0.5
                draw.line([tuple(bar[0]), tuple(bar[1])], fill=WIDTH)
        place = points[list(FEMUR)].min(0)
        draw.text((max(0.0, place[0]), max(0.0, place[1])), label, SURE, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _colour(outline: Outline, index: int) -> Colour:
    if not outline.seen[index]:
        return UNSEEN
    return SURE if outline.point_confidence[index] >= DOUBTFUL else UNSURE
