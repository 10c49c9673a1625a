"""Attributes of a DICOM header: suitability as a radiograph, side, view, UIDs and burned-in text.

This module runs in the decoding process.
"""

import re

from pydicom.dataset import Dataset

from kneegrade.errors import LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom.dicom_values import get_integer, get_items, get_text, get_texts
from kneegrade.imaging.dicom.header_keywords import INSTANCE
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import Identity, Laterality
from kneegrade.results import Finding

MODALITIES = frozenset({"", "CR", "DX", "RF", "XA", "RG", "SC", "OT"})
OTHER_MODALITIES = frozenset([  # defined by the standard (PS3.3, C.7.3.1.1.1); no other text of a file is shown
    "AR", "AS", "BI", "BMD", "CT", "DG", "DOC", "ECG", "ES", "FID", "GM", "HD", "IO", "IVOCT", "IVUS", "KER", "KO",
    "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "PLAN",
    "POS", "PR", "PT", "PX", "REG", "RESP", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SM",
    "SMR", "SR", "SRF", "STAIN", "TG", "US", "VA", "XC", "CS", "DF", "EC", "ST", "CD", "DD", "EPS",
])  # fmt: skip
UNUSUAL_MODALITIES = frozenset({"DR", "XR"})  # not in the standard, but written by some systems for radiographs
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OTHER_VIEWS = frozenset([
    "LATERAL", "LAT", "LL", "RL", "LLD", "RLD", "ML", "LM", "MLO", "LMO", "LLO", "RLO", "OBLIQUE", "OBL", "TANGENTIAL",
    "SKYLINE", "SUNRISE", "MERCHANT", "AXIAL",
])  # fmt: skip
OTHER_BODY_PARTS = frozenset([
    "ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CHEST", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW", "FINGER",
    "FOOT", "FOREARM", "HAND", "HEAD", "HEART", "HIP", "HUMERUS", "JAW", "LSPINE", "NECK", "PELVIS", "RIB", "RIBS",
    "SACRUM", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "STERNUM", "THORAX", "THUMB", "TOE", "TSPINE", "WRIST",
])  # fmt: skip
SIDES: dict[str, Laterality] = {
    **dict.fromkeys(("R", "RT", "RIGHT", "RECHTS", "DROIT", "DROITE", "DERECHA", "DERECHO", "DESTRA", "DESTRO"), "R"),
    **dict.fromkeys(("DIREITA", "DIREITO", "DEXTER", "DEXTRA", "HÖGER", "HØJRE", "HØYRE", "右"), "R"),
    **dict.fromkeys(("L", "LT", "LEFT", "LINKS", "GAUCHE", "IZQUIERDA", "IZQUIERDO", "SINISTRA", "SINISTRO"), "L"),
    **dict.fromkeys(("ESQUERDA", "ESQUERDO", "SINISTER", "VÄNSTER", "VENSTRE", "左"), "L"),
    **dict.fromkeys(("B", "BOTH", "BILATERAL", "BEIDE", "BEIDSEITS", "BDS", "BILATÉRAL"), "both"),
}
NEUTRAL_WORDS = frozenset({"KNEE", "KNEES", "LEG", "SIDE", "KNIE", "GENOU", "AND", "UND", "ET"})  # beside a side
UNPAIRED = frozenset({"U", "UNPAIRED", "N", "NA", "NONE", "UNKNOWN"})  # no side is stated
LATERALITY_UNCLEAR = Finding(
    "laterality_unclear",
    "The file states a laterality that is not understood; expected R, L or B. The side is from the film itself.",
)
SIDE_CODES: dict[str, Laterality] = {  # SNOMED CT and SRT codes
    "24028007": "R",
    "G-A100": "R",
    "7771000": "L",
    "G-A101": "L",
    "51440002": "both",
    "G-A102": "both",
}
MIRRORED_ORIENTATIONS = frozenset(  # the directions of rows and columns of a mirrored frontal film, by quarter turns
    [("R", "F"), ("H", "R"), ("L", "H"), ("F", "L")]
)

MODALITY_UNUSUAL = Finding(
    "modality_unusual",
    "The file writes the modality in a way that the standard does not define; it is read as a radiograph.",
)
BURNED_IN = Finding("burned_in_text", "The file declares burned-in text; images made from it may identify the patient.")
MAYBE_BURNED_IN = Finding(
    "burned_in_text",
    "The file is a secondary capture that does not declare whether it contains burned-in text; images made from it may "
    "identify the patient.",
)


def check_is_radiograph(dataset: Dataset, limits: Limits) -> tuple[Finding, ...]:
    """A warning if the modality is written unusually; an error unless this is a single-frame radiograph within limits.

    Raises:
        UnsupportedFileError: the data set has no image, another modality, or more than one frame.
        UnreadableFileError: the size is missing or zero, or the pixel data are missing.
        LimitExceededError: the image has more pixels than allowed.
    """
    modality = get_text(dataset, "Modality")
    is_standard = modality in MODALITIES
    is_radiograph = is_standard or set(get_texts(dataset, "Modality") or "?") <= MODALITIES | UNUSUAL_MODALITIES
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        if "DirectoryRecordSequence" in dataset:
            raise UnsupportedFileError(
                "The file is a DICOMDIR, the index of a medium; give the folder that contains it.", code="not_an_image"
            )
        if "Rows" in dataset and is_radiograph:
            raise UnreadableFileError("The DICOM file ends before its pixel data: it is truncated.", code="truncated")
        raise UnsupportedFileError("The DICOM file contains no image; use a radiograph.", code="not_an_image")
    if not is_radiograph:
        shown = modality if modality in OTHER_MODALITIES else "unknown"
        raise UnsupportedFileError(
            f"The DICOM modality is {shown}; expected a radiograph (CR, DX, RF, XA or a secondary capture).",
            code="modality",
        )
    if "PixelData" in dataset and not dataset.get_item("PixelData").value:
        raise UnreadableFileError(
            "The DICOM file has empty pixel data: the header was saved without the image. Export the film again.",
            code="truncated",
        )
    if is_own_object(dataset):
        raise UnsupportedFileError(
            "The DICOM file is a picture of results of kneegrade and is not a film; give the film.", code="own_picture"
        )
    frames = get_integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnsupportedFileError(
            f"The DICOM file has {frames} frames; use files with a single frame.", code="multi_frame"
        )
    rows, columns = get_integer(dataset, "Rows", 0), get_integer(dataset, "Columns", 0)
    if rows <= 0 or columns <= 0:
        raise UnreadableFileError("The DICOM header declares no rows or no columns.", code="damaged")
    check_pixel_count(rows, columns, limits)
    return () if is_standard else (MODALITY_UNUSUAL,)


def is_own_object(dataset: Dataset) -> bool:
    """True for a secondary capture that kneegrade made from a film; archives may rewrite the mark of the file."""
    model = get_text(dataset, "ManufacturerModelName")
    return model == "KNEEGRADE" and bool(get_items(dataset, "SourceImageSequence"))


def check_pixel_count(rows: int, columns: int, limits: Limits) -> None:
    """Raise an error when the image is larger than allowed.

    Raises:
        LimitExceededError: the image has more pixels than allowed.
    """
    if rows * columns > limits.pixels:
        raise LimitExceededError(
            f"The image has {rows} x {columns} pixels, more than the allowed {limits.pixels}.", code="pixels"
        )


def laterality(dataset: Dataset) -> tuple[Laterality, str | None]:
    """The side stated in the header and the keyword from which it was read."""
    for keyword in ("ImageLaterality", "Laterality"):
        side = _side(dataset, keyword)
        if side is not None:
            return side, keyword
    for groups in get_items(dataset, "SharedFunctionalGroupsSequence"):
        for frame_anatomy in get_items(groups, "FrameAnatomySequence"):
            side = _side(frame_anatomy, "FrameLaterality")
            if side is not None:
                return side, "FrameLaterality"
    for region in get_items(dataset, "AnatomicRegionSequence"):
        for modifier in get_items(region, "AnatomicRegionModifierSequence"):
            if get_text(modifier, "CodeValue") in SIDE_CODES:
                return SIDE_CODES[get_text(modifier, "CodeValue")], "AnatomicRegionModifierSequence"
    return "unknown", None


def _side(dataset: Dataset, keyword: str) -> Laterality | None:
    """The side, "both" when the element lists both sides; None when it is absent or states no known side."""
    sides = {SIDES.get(text) for text in get_texts(dataset, keyword) if text not in NEUTRAL_WORDS}
    if not sides or None in sides:
        return None
    return sides.pop() if len(sides) == 1 else "both"


def laterality_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when the header states a side in words that are not understood."""
    texts = {text for keyword in ("ImageLaterality", "Laterality") for text in get_texts(dataset, keyword)}
    return (LATERALITY_UNCLEAR,) if texts - UNPAIRED and laterality(dataset)[0] == "unknown" else ()


def identity(dataset: Dataset) -> Identity:
    """The UIDs of the file."""
    return Identity(*(get_text(dataset, keyword) for keyword in INSTANCE))


def projection_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """Warnings when the header declares a view that is not frontal, or a body part that is not the knee."""
    findings: tuple[Finding, ...] = ()
    part = get_text(dataset, "BodyPartExamined").replace(" ", "")
    meanings = [get_text(item, "CodeMeaning") for item in get_items(dataset, "ViewCodeSequence")]
    words = [*get_texts(dataset, "ViewPosition"), *(word for text in meanings for word in re.split(r"[^A-Z]+", text))]
    view = next((word for word in words if word in OTHER_VIEWS), None)
    if view is not None:
        message = f"The file declares the view {view}; the grades are defined for frontal views (AP or PA)."
        findings += (Finding("view_declared", message),)
    if part in OTHER_BODY_PARTS:
        findings += (Finding("body_part", f"The file declares the body part {part}; expected a knee."),)
    return findings


def orientation_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when PatientOrientation (PS3.3, C.7.6.1.1.1) declares a mirror image: a film seen from behind."""
    texts = get_texts(dataset, "PatientOrientation")
    declared = tuple("".join(letter for letter in text if letter in "RLHF") for text in texts)
    if declared not in MIRRORED_ORIENTATIONS:
        return ()
    message = (
        f"The file declares a mirror image (PatientOrientation {declared[0]}\\{declared[1]}), a film seen from behind. "
        "Sides that follow from the position on the film assume a film seen from the front and may be exchanged; check "
        "them."
    )
    return (Finding("orientation_mirrored", message),)


def burned_in_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when burned-in text is declared, or when a secondary capture does not declare its absence."""
    declared = get_text(dataset, "BurnedInAnnotation")
    if declared == "YES":
        return (BURNED_IN,)
    is_capture = get_text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE)
    return (MAYBE_BURNED_IN,) if is_capture and declared != "NO" else ()
