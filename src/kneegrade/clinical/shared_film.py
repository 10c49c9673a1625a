"""A film without its patient, built anew from what may stay.

Nothing of the file is copied. A new data set gets the elements in `KEPT`, each only if its value has the listed form,
so that a name in a field for something else does not pass; pseudonyms instead of IDs and UIDs; and the grey levels that
the grader saw. What no list names cannot travel: private elements, overlays, comments, dates, lookup tables, thumbnails
and bytes around the pixels.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.clinical.codes import BASIC_PROFILE, CLEAN_PIXELS, KNEE, VIEWS
from kneegrade.clinical.derived_object import IMPLEMENTATION_VERSION, coded_item, file_bytes
from kneegrade.clinical.film_header import FilmHeader
from kneegrade.clinical.pseudonyms import Pseudonyms
from kneegrade.clinical.uids import uid_of
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Radiograph
from kneegrade.results import GradedKnee

if TYPE_CHECKING:
    from pydicom import Dataset

MARGIN: Final = 0.3  # around the outlines of a knee, as a fraction of the width of its tibial plateau
OLDEST: Final = 89  # years; older people are rare enough to be recognised
TOP: Final = 65535  # largest stored value
DX_CLASS: Final = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
CR_CLASS: Final = "1.2.840.10008.5.1.4.1.1.1"  # Computed Radiography Image Storage
ONLY_IN_DX: Final = ("DetectorType", "PositionerType", "EstimatedRadiographicMagnificationFactor")
SHARED_IMPLEMENTATION_UID: Final = uid_of("implementation", "share")  # unlike that of results, which are no films
METHOD: Final = ("kneegrade share", "Rebuilt from listed attributes")
MASKED_METHOD: Final = "Pixels outside the knees blanked"

Kept = Callable[[Any], Any]  # the value to write, or None where it has not the listed form


def _number(low: float, high: float) -> Kept:
    def kept(value: Any) -> str | None:
        number = float(value)
        return f"{number:.6g}" if math.isfinite(number) and low <= number <= high else None

    return kept


def _numbers(low: float, high: float) -> Kept:
    one = _number(low, high)

    def kept(value: Any) -> list[str] | None:
        pair = [one(item) for item in value]
        return pair if len(pair) == 2 and None not in pair else None

    return kept


def _one_of(*values: str) -> Kept:
    return lambda value: str(value) if str(value) in values else None


def _orientation(value: Any) -> list[str] | None:
    directions = [str(item) for item in value]
    is_valid = len(directions) == 2 and all(re.fullmatch("[APRLHF]{1,3}", direction) for direction in directions)
    return directions if is_valid else None


def _age(value: Any) -> str | None:
    match = re.fullmatch(r"(\d{3})Y", str(value))
    return f"{min(int(match[1]), OLDEST):03d}Y" if match else None


KEPT: Final[Mapping[str, Kept]] = {
    "PatientSex": _one_of("M", "F", "O"),
    "PatientAge": _age,
    "PatientOrientation": _orientation,
    "BodyPartExamined": _one_of("KNEE", "LEG", "EXTREMITY"),
    "ViewPosition": _one_of("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO"),
    "PixelSpacing": _numbers(0.001, 10.0),
    "PixelSpacingCalibrationType": _one_of("GEOMETRY", "FIDUCIAL"),
    "ImagerPixelSpacing": _numbers(0.001, 10.0),
    "EstimatedRadiographicMagnificationFactor": _number(0.1, 10.0),
    "KVP": _number(1.0, 500.0),
    "DistanceSourceToDetector": _number(1.0, 10000.0),
    "LossyImageCompression": _one_of("00", "01"),
    "DetectorType": _one_of("DIRECT", "SCINTILLATOR", "STORAGE", "FILM"),
    "PositionerType": _one_of("NONE", "COLUMN", "CARM", "RIGID"),
}


@dataclass(frozen=True)
class SharedFile:
    """A file that names no patient.

    Attributes:
        name: of the file: the film's pseudonym and an ending.
        content: DICOM or PNG.
        is_masked: whether the pixels outside the knees were blanked.
    """

    name: str
    content: bytes
    is_masked: bool


def shared_pixels(radiograph: Radiograph, knees: tuple[GradedKnee, ...], *, whole_film: bool) -> NDArray[np.uint16]:
    """(H, W) stored values, bone bright: the regions of the knees on black, or the whole film.

    The film is cropped to the regions, so that much black does not make it look badly exposed.

    Args:
        radiograph: the film.
        knees: its knees, graded or not.
        whole_film: whether to keep all pixels.

    Raises:
        UnsupportedFileError: there is no knee, so nothing would be left.
    """
    values = np.rint(radiograph.pixels * TOP).astype(np.uint16)
    if whole_film:
        return values
    kept = np.zeros(values.shape, dtype=np.bool_)
    for knee in knees:
        kept |= knee_region(knee, values.shape)
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    if not len(rows):
        raise UnsupportedFileError(
            "No knee was detected on the film, so nothing of it can be shared: only the region of the knees is.",
            code="no_knee",
        )
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.where(kept, values, np.uint16(0))[box]


def knee_region(knee: GradedKnee, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W), True where a pixel is at most `MARGIN` plateau widths from the convex hull of the outlines.

    A hull leaves out more of the corners of a film than a box does, where names are burned in.
    """
    from PIL import Image, ImageDraw
    from scipy.spatial import ConvexHull

    region = Image.new("1", (shape[1], shape[0]))
    points = np.empty((0, 2)) if knee.landmarks_px is None else np.asarray(knee.landmarks_px)
    width = plateau_width(points)
    if not width > 0:
        return np.asarray(region)
    finite = points[np.isfinite(points).all(axis=1)]
    hull = [(float(x), float(y)) for x, y in finite[ConvexHull(finite).vertices]]
    draw, margin = ImageDraw.Draw(region), MARGIN * width
    draw.polygon(hull, fill=1)
    draw.line([*hull, hull[0]], fill=1, width=round(2 * margin))
    for x, y in hull:
        draw.ellipse((x - margin, y - margin, x + margin, y + margin), fill=1)
    return np.asarray(region)


def plateau_width(landmarks_px: NDArray[np.float64]) -> float:
    """Width of the tibial plateau in pixels; 0 without landmarks, NaN if one of its edges is missing."""
    if not len(landmarks_px):
        return 0.0
    return float(np.hypot(*(landmarks_px[TIBIA_PLATEAU_MEDIAL] - landmarks_px[TIBIA_PLATEAU_LATERAL])))


def shared_picture(values: NDArray[np.uint16], pseudonym: str, *, is_masked: bool) -> SharedFile:
    """The film as a 16-bit PNG file without any metadata."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return SharedFile(f"{pseudonym}.png", stream.getvalue(), is_masked)


def shared_dicom(
    values: NDArray[np.uint16], radiograph: Radiograph, header: FilmHeader, pseudonyms: Pseudonyms, *, is_masked: bool
) -> SharedFile:
    """The film as a DICOM file.

    Args:
        values: `shared_pixels`.
        radiograph: the film; its side is kept.
        header: of the film.
        pseudonyms: for the patient and all UIDs.
        is_masked: whether `values` are blanked outside the knees.
    """
    made = _kept_elements(header)
    _set_identity(made, header, pseudonyms)
    _set_class(made, header, radiograph)
    _set_image(made, values)
    _set_deidentification(made, is_masked=is_masked)
    name = pseudonyms.name("film", header.sop_instance_uid)
    return SharedFile(f"{name}.dcm", file_bytes(made), is_masked)


def _kept_elements(header: FilmHeader) -> "Dataset":
    """A new data set with the elements in `KEPT` whose values have the listed form."""
    from pydicom import Dataset

    made = Dataset()
    for keyword, kept in KEPT.items():
        value = header.image.get(keyword) or header.identity.get(keyword)
        try:
            value = None if value in (None, "") else kept(value)
        except (TypeError, ValueError):
            value = None
        if value is not None:
            setattr(made, keyword, value)
    return made


def _set_identity(made: "Dataset", header: FilmHeader, pseudonyms: Pseudonyms) -> None:
    """Pseudonyms for patient, study, series and instance; everything else that must be present is empty."""
    identity, image = header.identity, header.image
    patient_id = str(identity.get("PatientID") or "")
    issuer = str(identity.get("IssuerOfPatientID") or "")
    patient = f"{issuer}\0{patient_id}" if patient_id else f"study {header.study_instance_uid}"
    made.PatientID = pseudonyms.name("patient", patient)
    made.PatientName = f"{made.PatientID}^"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(made, keyword, pseudonyms.uid(str(image[keyword].value)))
    empty = (
        "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
        "Manufacturer", "ContentDate", "ContentTime",
    )  # fmt: skip
    for keyword in empty:
        setattr(made, keyword, "")
    made.PatientSex = made.get("PatientSex", "")
    made.SeriesNumber = made.InstanceNumber = 1


def _set_class(made: "Dataset", header: FilmHeader, radiograph: Radiograph) -> None:
    """DX where the film is one and has all that DX requires; else CR, which requires less."""
    side = {"R": "R", "L": "L", "both": "B"}.get(radiograph.laterality, "")
    is_dx = header.image.Modality == "DX" and "ImagerPixelSpacing" in made and "PatientOrientation" in made
    made.SOPClassUID = DX_CLASS if is_dx else CR_CLASS
    made.Modality = "DX" if is_dx else "CR"
    if is_dx:
        made.ImageLaterality = side or "U"
        made.PresentationIntentType = "FOR PRESENTATION"
        made.PixelIntensityRelationship, made.PixelIntensityRelationshipSign = "LOG", -1
        made.PresentationLUTShape = "IDENTITY"
        made.DetectorType = made.get("DetectorType", "")
        made.AcquisitionContextSequence = []
        made.AnatomicRegionSequence = [coded_item(KNEE)]
        if made.get("ViewPosition") in VIEWS:
            made.ViewCodeSequence = [coded_item(VIEWS[made.ViewPosition])]
        made.LossyImageCompression = made.get("LossyImageCompression", "00")
        return
    if side:
        made.ImageLaterality = side
    for keyword in ONLY_IN_DX:
        if keyword in made:
            del made[keyword]
    made.BodyPartExamined, made.ViewPosition = made.get("BodyPartExamined", ""), made.get("ViewPosition", "")
    made.PatientOrientation = made.get("PatientOrientation") or []


def _set_image(made: "Dataset", values: NDArray[np.uint16]) -> None:
    """Pixels, and how to show them: 16 bits, bone bright, one window over the whole range."""
    made.ImageType = ["DERIVED", "PRIMARY", ""]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = values.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.RescaleIntercept, made.RescaleSlope, made.RescaleType = "0", "1", "US"
    made.WindowCenter, made.WindowWidth = str((TOP + 1) // 2), str(TOP + 1)
    made.PixelData = values.astype("<u2").tobytes()
    made["PixelData"].VR = "OW"


def _set_deidentification(made: "Dataset", *, is_masked: bool) -> None:
    """How the patient was removed (PS3.15 Annex E), and the file meta information."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made.PatientIdentityRemoved, made.BurnedInAnnotation = "YES", "NO"
    made.DeidentificationMethod = [*METHOD, *([MASKED_METHOD] if is_masked else [])]
    methods = (BASIC_PROFILE, CLEAN_PIXELS) if is_masked else (BASIC_PROFILE,)
    made.DeidentificationMethodCodeSequence = [coded_item(code) for code in methods]
    made.LongitudinalTemporalInformationModified = "REMOVED"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.ImplementationClassUID = UID(SHARED_IMPLEMENTATION_UID)
    made.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
