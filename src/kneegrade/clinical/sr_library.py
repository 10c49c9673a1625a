"""Parts of a structured report that describe its film: image library (TID 1600) and procedure reported."""

from collections.abc import Iterator
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    MeasurementReport,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.sr.codedict import codes

from kneegrade.clinical.codes import (
    IMAGE_LIBRARY,
    IMAGE_LIBRARY_GROUP,
    MAX_MEANING,
    MAX_VALUE,
    MM,
    PIXELS,
    PLAIN_RADIOGRAPHY,
    SIDES,
    SOURCE,
)
from kneegrade.clinical.film_header import FilmHeader

CONTAINS: Final = RelationshipTypeValues.CONTAINS
CONTEXT: Final = RelationshipTypeValues.HAS_ACQ_CONTEXT
MODALITIES: Final = {"CR": codes.DCM.ComputedRadiography, "DX": codes.DCM.DigitalRadiography}


def insert_image_library(report: MeasurementReport, header: FilmHeader) -> None:
    """Insert the image library (TID 1600) before the measurements, with what the film states.

    Viewers need it. That of highdicom needs Patient Orientation and Imager Pixel Spacing, which many films lack.
    """
    image = ImageContentItem(SOURCE, header.image.SOPClassUID, header.image.SOPInstanceUID, relationship_type=CONTAINS)
    image.ContentSequence = ContentSequence(list(_descriptors(header)))
    group = ContainerContentItem(IMAGE_LIBRARY_GROUP, relationship_type=CONTAINS)
    group.ContentSequence = ContentSequence([image])
    library = ContainerContentItem(IMAGE_LIBRARY, relationship_type=CONTAINS)
    library.ContentSequence = ContentSequence([group])
    items = report[0].ContentSequence
    position = next(i for i, item in enumerate(items) if item.name == codes.DCM.ImagingMeasurements)
    items.insert(position, library)


def _descriptors(header: FilmHeader) -> Iterator[ContentItem]:
    """Image library entry descriptors (TID 1602, TID 1603)."""
    rows, columns = header.size
    modality = MODALITIES.get(str(header.image.Modality), codes.DCM.RadiographicImaging)
    yield CodeContentItem(codes.DCM.Modality, modality, CONTEXT)
    yield NumContentItem(codes.DCM.PixelDataRows, rows, PIXELS, relationship_type=CONTEXT)
    yield NumContentItem(codes.DCM.PixelDataColumns, columns, PIXELS, relationship_type=CONTEXT)
    if header.laterality is not None:
        yield CodeContentItem(codes.DCM.ImageLaterality, SIDES[header.laterality], CONTEXT)
    if header.orientation is not None:
        yield TextContentItem(codes.DCM.PatientOrientationRow, header.orientation[0], CONTEXT)
        yield TextContentItem(codes.DCM.PatientOrientationColumn, header.orientation[1], CONTEXT)
    if header.spacing_mm is not None:
        row, column = header.spacing_mm
        yield NumContentItem(codes.DCM.HorizontalPixelSpacing, column, MM, relationship_type=CONTEXT)
        yield NumContentItem(codes.DCM.VerticalPixelSpacing, row, MM, relationship_type=CONTEXT)


def procedure_reported(header: FilmHeader) -> CodedConcept:
    """The first procedure code of the film, else "Plain radiography". It is what was done to the patient."""
    for item in header.image.get("ProcedureCodeSequence") or ():
        parts = [str(item.get(name) or "") for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(parts) and all(
            len(part) <= most for part, most in zip(parts, (MAX_VALUE, 16, MAX_MEANING), strict=True)
        ):
            return CodedConcept(*parts)
    return CodedConcept.from_code(PLAIN_RADIOGRAPHY)
