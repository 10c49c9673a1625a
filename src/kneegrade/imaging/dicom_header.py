"""Attributes of a DICOM header: suitability as a radiograph, pixel spacing, side, view, UIDs and burned-in text.

This module runs in the decoding process. Header values are untrusted: the functions `get_*` return a default for an
element that is absent, empty or malformed.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

from pydicom.dataset import Dataset

from kneegrade.errors import LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import Identity, Laterality
from kneegrade.results import Finding

MODALITIES = frozenset({"", "CR", "DX", "RF", "XA", "RG", "SC", "OT"})
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PLAUSIBLE_SPACING_MM = (0.02, 1.0)
SPACING_TOLERANCE = 0.01  # largest relative difference of row and column spacing that counts as equal
SIDES: dict[str, Laterality] = {"R": "R", "L": "L", "B": "both"}
SIDE_CODES: dict[str, Laterality] = {  # SNOMED CT and SRT codes
    "24028007": "R",
    "G-A100": "R",
    "7771000": "L",
    "G-A101": "L",
    "51440002": "both",
    "G-A102": "both",
}

MAGNIFICATION = Finding(
    "magnification_uncorrected",
    "The pixel spacing refers to the detector; lengths are not corrected for geometric magnification.",
)
SPACING_PROBLEMS = {
    "spacing_invalid": "is not a pair of positive numbers",
    "spacing_unequal": "differs between rows and columns",
    "spacing_implausible": "is implausible for a knee radiograph",
}
ASPECT_RATIO = Finding("aspect_ratio", "The file declares pixels that are not square; the declared ratio is not used.")
BURNED_IN = Finding("burned_in_text", "The file declares burned-in text; images made from it may identify the patient.")
MAYBE_BURNED_IN = Finding(
    "burned_in_text",
    "The file is a secondary capture that does not declare whether it contains burned-in text; images made from it may "
    "identify the patient.",
)


def get_text(dataset: Dataset, keyword: str) -> str:
    """The value as upper-case text, or "" when there is none."""
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip().strip("\0").upper()
    except Exception:
        return ""


def get_numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values as numbers; empty when the element is absent, empty or malformed."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, bytes):
            return ()
        values = [value] if isinstance(value, str | int | float) else list(value)
        return tuple(float(item) for item in values)
    except Exception:
        return ()


def get_integer(dataset: Dataset, keyword: str, default: int) -> int:
    """The first value as an integer, or the default."""
    values = get_numbers(dataset, keyword)
    return int(values[0]) if values and math.isfinite(values[0]) else default


def get_items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; empty when it is absent or malformed."""
    try:
        return tuple(dataset.get(keyword) or ())
    except Exception:
        return ()


def check_nesting(dataset: Dataset, limits: Limits) -> None:
    """Raise an error when sequences are nested more deeply than allowed.

    Raises:
        LimitExceededError: the nesting exceeds the limit.
    """
    level, depth = [dataset], 0
    while level:
        if depth > limits.nesting:
            raise LimitExceededError(
                f"The DICOM file nests sequences deeper than the allowed {limits.nesting} levels.", code="nesting"
            )
        level, depth = [item for parent in level for item in _sequence_items(parent)], depth + 1


def _sequence_items(dataset: Dataset) -> Iterator[Dataset]:
    """The items of all sequences in a data set, without those nested in the items."""
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        if raw is None or raw.VR not in ("SQ", "UN", None):
            continue
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                yield from cast(Any, element.value)
        except RecursionError:
            raise
        except Exception:
            continue  # the image may be valid although a private sequence is broken


def check_is_radiograph(dataset: Dataset, limits: Limits) -> None:
    """Raise an error unless the data set is a single-frame radiograph within the limits.

    Raises:
        UnsupportedFileError: the data set has no image, another modality, or more than one frame.
        UnreadableFileError: the size is missing or zero, or the pixel data are missing.
        LimitExceededError: the image has more pixels than allowed.
    """
    modality = get_text(dataset, "Modality")
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        if "Rows" in dataset and modality in MODALITIES:
            raise UnreadableFileError("The DICOM file ends before its pixel data: it is truncated.", code="truncated")
        raise UnsupportedFileError("The DICOM file contains no image; use a radiograph.", code="not_an_image")
    if modality not in MODALITIES:
        shown = modality if modality.isalnum() and len(modality) <= 16 else "invalid"
        raise UnsupportedFileError(
            f"The DICOM modality is {shown}; expected a radiograph (CR, DX, RF, XA or a secondary capture).",
            code="modality",
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


def check_pixel_count(rows: int, columns: int, limits: Limits) -> None:
    """Raise an error when the image is larger than allowed.

    Raises:
        LimitExceededError: the image has more pixels than allowed.
    """
    if rows * columns > limits.pixels:
        raise LimitExceededError(
            f"The image has {rows} x {columns} pixels, more than the allowed {limits.pixels}.", code="pixels"
        )


def pixel_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str | None, tuple[Finding, ...]]:
    """(row, column) spacing in mm or None, the keyword from which it was read, and warnings.

    PixelSpacing takes precedence. ImagerPixelSpacing is used when PixelSpacing is absent or invalid; the warnings
    include the reason.
    """
    problems: tuple[Finding, ...] = ()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if not _has_value(dataset, keyword):
            continue
        values = get_numbers(dataset, keyword)
        problem = spacing_problem(keyword, values)
        if problem is not None:
            problems += (problem,)
            continue
        is_uncorrected = keyword == "ImagerPixelSpacing" or _is_detector_spacing(dataset)
        return (values[0], values[1]), keyword, (*problems, MAGNIFICATION) if is_uncorrected else problems
    ratio = get_numbers(dataset, "PixelAspectRatio")
    is_square = len(ratio) != 2 or ratio[0] == ratio[1]
    return None, None, problems if is_square else (*problems, ASPECT_RATIO)


def _has_value(dataset: Dataset, keyword: str) -> bool:
    """True when the element is not empty, even if its value cannot be parsed."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return True
    return value is not None and str(value).strip(" \0") not in ("", "[]")


def _is_detector_spacing(dataset: Dataset) -> bool:
    """True when PixelSpacing equals ImagerPixelSpacing, which means that it was not calibrated (PS3.3 10.7.1.3)."""
    detector = get_numbers(dataset, "ImagerPixelSpacing")
    pairs = zip(get_numbers(dataset, "PixelSpacing"), detector, strict=False)
    return len(detector) == 2 and all(math.isclose(value, other, rel_tol=1e-3) for value, other in pairs)


def spacing_problem(keyword: str, values: tuple[float, ...]) -> Finding | None:
    """The finding that the values are not the pixel spacing of a knee radiograph, or None when they may be.

    Args:
        keyword: DICOM keyword of the element, for the message.
        values: (row, column) in mm as in the file; empty when they cannot be parsed.
    """
    low, high = PLAUSIBLE_SPACING_MM
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        code = "spacing_invalid"
    elif max(values) > min(values) * (1 + SPACING_TOLERANCE):
        code = "spacing_unequal"
    elif min(values) < low or max(values) > high:
        code = "spacing_implausible"
    else:
        return None
    return Finding(code, f"{keyword} in the file {SPACING_PROBLEMS[code]}; it is not used.")


def laterality(dataset: Dataset) -> tuple[Laterality, str | None]:
    """The side stated in the header and the keyword from which it was read."""
    for keyword in ("ImageLaterality", "Laterality"):
        if get_text(dataset, keyword) in SIDES:
            return SIDES[get_text(dataset, keyword)], keyword
    for groups in get_items(dataset, "SharedFunctionalGroupsSequence"):
        for frame_anatomy in get_items(groups, "FrameAnatomySequence"):
            if get_text(frame_anatomy, "FrameLaterality") in SIDES:
                return SIDES[get_text(frame_anatomy, "FrameLaterality")], "FrameLaterality"
    for region in get_items(dataset, "AnatomicRegionSequence"):
        for modifier in get_items(region, "AnatomicRegionModifierSequence"):
            if get_text(modifier, "CodeValue") in SIDE_CODES:
                return SIDE_CODES[get_text(modifier, "CodeValue")], "AnatomicRegionModifierSequence"
    return "unknown", None


def identity(dataset: Dataset) -> Identity:
    """The UIDs of the file."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return Identity(*(get_text(dataset, keyword) for keyword in keywords))


def burned_in_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when burned-in text is declared, or when a secondary capture does not declare its absence."""
    declared = get_text(dataset, "BurnedInAnnotation")
    if declared == "YES":
        return (BURNED_IN,)
    is_capture = get_text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE)
    return (MAYBE_BURNED_IN,) if is_capture and declared != "NO" else ()
