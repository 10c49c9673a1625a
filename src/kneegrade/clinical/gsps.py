"""Grayscale Softcopy Presentation State: outlines, calipers and grades that a viewer draws over the film itself.

Three layers, which a viewer can hide one by one (`graphic_layers`). A presentation state replaces the film's own grey
scale pipeline. So it repeats the film's first window, unless kneegrade ignored that, and states `INVERSE` where low
values are bright.
"""

from typing import TYPE_CHECKING, Final

from kneegrade.clinical.clinical_film import ClinicalFilm, was_inverted
from kneegrade.clinical.derived_object import SERIES, finish, highdicom_arguments, require_highdicom
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.graphic_layers import LayerContent, layer_contents
from kneegrade.clinical.grey_pipeline import source_with_grey_pipeline
from kneegrade.errors import UnsupportedFileError
from kneegrade.results import GradedRadiograph

if TYPE_CHECKING:
    from highdicom.pr import GraphicAnnotation, GraphicLayer
    from pydicom import Dataset

CONTENT_LABEL: Final = "KNEEGRADE"
CONTENT_CREATOR: Final = "kneegrade^"


def presentation_state(graded: ClinicalFilm) -> "Dataset":
    """The presentation state of a film.

    Args:
        graded: the film with its results, header and job.

    Raises:
        UnsupportedFileError: the film is stored in colour (`colour_film`), to which no grey scale state applies.
        UsageError: highdicom is not installed.
    """
    require_highdicom()
    from highdicom import PresentationLUTTransformation
    from highdicom.pr import GrayscaleSoftcopyPresentationState

    film, header, job = graded.film, graded.header, graded.job
    source = _source(film, header)
    contents = layer_contents(film, header.size, job.set_level)
    layers = [_layer(content) for content in contents]
    made = GrayscaleSoftcopyPresentationState(
        referenced_images=[source],
        content_label=CONTENT_LABEL,
        content_description=SERIES["GSPS"][1],
        content_creator_name=CONTENT_CREATOR,
        graphic_layers=layers,
        graphic_annotations=[_annotation(*pair, source) for pair in zip(contents, layers, strict=True)],
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if is_inverse(film, header) else "IDENTITY"
        ),
        **highdicom_arguments("GSPS", header, job),
    )
    _set_displayed_area(made, header)
    made.Laterality = header.laterality if header.laterality in ("R", "L") else ""  # no value for both sides
    return finish(made, header, job)


def is_inverse(film: GradedRadiograph, header: FilmHeader) -> bool:
    """True if low values, after the window, must be shown bright, so that bone is bright.

    Declared by MONOCHROME1 or an inverse presentation LUT, and toggled where kneegrade found an undeclared negative.
    """
    declared = header.inverse or str(header.image.get("PresentationLUTShape") or "") == "INVERSE"
    return declared != was_inverted(film)


def _set_displayed_area(made: "Dataset", header: FilmHeader) -> None:
    """State the shape of the pixels, which highdicom takes to be square."""
    for area in made.DisplayedAreaSelectionSequence:
        area.PresentationPixelAspectRatio = list(header.aspect_ratio)
        if "PixelOriginInterpretation" in area:  # for images in tiles
            del area.PixelOriginInterpretation


def _source(film: GradedRadiograph, header: FilmHeader) -> "Dataset":
    """The image that the state refers to."""
    if int(header.image.get("SamplesPerPixel") or 1) != 1:
        raise UnsupportedFileError(
            "The film is stored in colour, and a grayscale presentation state applies to grey images only; use the "
            "secondary capture.",
            code="colour_film",
        )
    ignore_window = any(warning.code == "window_ignored" for warning in film.warnings)
    return source_with_grey_pipeline(header, ignore_window=ignore_window)


def _layer(content: LayerContent) -> "GraphicLayer":
    from highdicom.color import CIELabColor
    from highdicom.pr import GraphicLayer

    layer = content.layer
    return GraphicLayer(layer.name, layer.order, layer.description, CIELabColor(*layer.cielab))


def _annotation(content: LayerContent, layer: "GraphicLayer", source: "Dataset") -> "GraphicAnnotation":
    from highdicom.pr import GraphicAnnotation, GraphicObject, TextObject

    graphics = [GraphicObject("POLYLINE", points, "PIXEL") for points in content.polylines]
    texts = [TextObject(line.text, "PIXEL", bounding_box=line.box, text_justification="LEFT") for line in content.lines]
    return GraphicAnnotation([source], layer, graphic_objects=graphics or None, text_objects=texts or None)
