"""Secondary Capture: the film with everything drawn on it, for archives and viewers that show nothing else."""

from typing import TYPE_CHECKING, Final

from pydicom.uid import ExplicitVRLittleEndian

from kneegrade.clinical.clinical_film import ClinicalFilm
from kneegrade.clinical.codes import SOURCE_IMAGE
from kneegrade.clinical.derived_object import coded_item, finish, highdicom_arguments, require_highdicom
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.job import MODEL, RESEARCH_USE
from kneegrade.clinical.result_picture import result_picture

if TYPE_CHECKING:
    from pydicom import Dataset

DERIVATION: Final = f"Outlines, joint space and grades by kneegrade drawn on the film. {RESEARCH_USE}"
WORKSTATION: Final = "WSD"  # Conversion Type
UNKNOWN_ORIENTATION: Final = ("L", "F")  # highdicom insists on one; removed again


def secondary_capture(graded: ClinicalFilm) -> "Dataset":
    """The picture of a film and its results as an uncompressed RGB Secondary Capture.

    Args:
        graded: the film with its results, header and job.

    Raises:
        UsageError: highdicom is not installed.
    """
    require_highdicom()
    from highdicom.sc import SCImage

    header, job = graded.header, graded.job
    note = f"{MODEL} {job.version}, weights {job.weights.name}"
    picture = result_picture(graded.film, graded.radiograph.pixels, set_level=job.set_level, note=note)
    side = header.laterality if header.laterality in ("R", "L") else None
    made = SCImage.from_ref_dataset(
        header.image,
        pixel_array=picture.pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        laterality=side,
        patient_orientation=header.orientation or UNKNOWN_ORIENTATION,
        **highdicom_arguments("SC", header, job),
    )
    if header.orientation is None:
        made.PatientOrientation = []
    if side is None:
        made.Laterality = ""
    _describe(made, header, picture.scale)
    return finish(made, header, job)


def _describe(made: "Dataset", header: FilmHeader, scale: float) -> None:
    """State how the picture was made from the film."""
    source = header.image
    made.ConversionType = WORKSTATION
    made.BodyPartExamined = "KNEE"
    made.DerivationDescription = DERIVATION
    made.BurnedInAnnotation = "NO" if source.get("BurnedInAnnotation") == "NO" else "YES"
    made.LossyImageCompression = "01" if source.get("LossyImageCompression") == "01" else "00"
    made.SourceImageSequence = [_reference(header)]
    if header.spacing_mm is not None:  # at the detector; Pixel Spacing would claim that it is calibrated
        made.NominalScannedPixelSpacing = [f"{value / scale:.9g}" for value in header.spacing_mm]


def _reference(header: FilmHeader) -> "Dataset":
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = header.image.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.sop_instance_uid
    reference.PurposeOfReferenceCodeSequence = [coded_item(SOURCE_IMAGE)]
    return reference
