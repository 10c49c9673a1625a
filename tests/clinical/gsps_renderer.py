"""A small viewer for the tests: draws a Grayscale Softcopy Presentation State over the film that it refers to.

It follows PS3.4 N.2 (modality LUT, VOI, presentation LUT) and PS3.3 C.10.5 (graphic annotations), and shares no code
with kneegrade.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset


def render(state: Dataset, film: Dataset) -> Image.Image:
    """The film as the state shows it: RGB, one pixel per pixel of the film."""
    referenced = state.ReferencedSeriesSequence[0].ReferencedImageSequence[0]
    assert referenced.ReferencedSOPInstanceUID == film.SOPInstanceUID
    grey = np.rint(255 * displayed_values(state, film)).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(picture)
    layers = {layer.GraphicLayer: layer for layer in state.GraphicLayerSequence}
    annotations = sorted(
        state.GraphicAnnotationSequence, key=lambda annotation: layers[annotation.GraphicLayer].GraphicLayerOrder
    )
    for annotation in annotations:
        colour = rgb_of(layers[annotation.GraphicLayer].GraphicLayerRecommendedDisplayCIELabValue)
        for graphic in annotation.get("GraphicObjectSequence") or ():
            assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
            points = np.reshape(graphic.GraphicData, (-1, 2)) - 0.5  # from the corner of the first pixel to its centre
            draw.line([tuple(point) for point in points], colour, max(1, film.Columns // 800))
        for text in annotation.get("TextObjectSequence") or ():
            draw_text(draw, text, colour)
    return picture


def displayed_values(state: Dataset, film: Dataset) -> np.ndarray:
    """(H, W) P-values in [0, 1]."""
    values = film.pixel_array * float(state.get("RescaleSlope", 1)) + float(state.get("RescaleIntercept", 0))
    voi = state.get("SoftcopyVOILUTSequence")
    if voi and "WindowWidth" in voi[0]:
        centre, width = float(voi[0].WindowCenter), float(voi[0].WindowWidth)
        shown = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    else:
        shown = values / (2**film.BitsStored - 1)
    return 1 - shown if state.PresentationLUTShape == "INVERSE" else shown


def draw_text(draw: ImageDraw.ImageDraw, text: Dataset, colour: tuple[int, int, int]) -> None:
    """One line of text, as high as its bounding box."""
    left, top = text.BoundingBoxTopLeftHandCorner
    right, bottom = text.BoundingBoxBottomRightHandCorner
    assert right > left
    font = ImageFont.load_default(max(6, 0.85 * (bottom - top)))
    draw.text((left, top), text.UnformattedTextValue, colour, font, stroke_width=1, stroke_fill=(0, 0, 0))


def rgb_of(encoded: list[int]) -> tuple[int, int, int]:
    """sRGB of a CIELab value as DICOM encodes it (PS3.3 C.10.7.1.1), D50."""
    lightness, a, b = encoded[0] / 65535 * 100, encoded[1] / 65535 * 255 - 128, encoded[2] / 65535 * 255 - 128
    fy = (lightness + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8251]
    matrix = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = np.clip(np.array(matrix) @ xyz, 0, 1)
    return tuple(
        int(v) for v in np.rint(255 * np.where(linear > 0.0031, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear))
    )
