"""What a DICOM header says about a radiograph: spacing, side, view, identity, and whether it is one at all.

Runs in the decoding process. Header values are other people's words: each is read through a function that gives a
default where the value is absent, empty or malformed.
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
EQUAL_WITHIN = 0.01
SIDES: dict[str, Laterality] = {"R": "R", "L": "L", "B": "both"}
SIDE_CODES: dict[str, Laterality] = {
    "24028007": "R",
    "G-A100": "R",
    "7771000": "L",
    "G-A101": "L",
    "51440002": "both",
    "G-A102": "both",
}

MAGNIFICATION = Finding(
    "magnification_uncorrected",
    "The pixel spacing is the one at the detector; lengths are not corrected for magnification.",
)
SPACING_PROBLEMS = {
    "spacing_invalid": "is not two positive numbers",
    "spacing_unequal": "differs between rows and columns",
    "spacing_implausible": "is not one of a knee radiograph",
}
ASPECT_RATIO = Finding(
    "aspect_ratio", "The file declares pixels that are not square; the picture is read as it is stored."
)
BURNED_IN = Finding("burned_in_text", "The file declares burned-in text; pictures made from it may identify a person.")
MAYBE_BURNED_IN = Finding(
    "burned_in_text",
    "A secondary capture that does not declare whether text is burned in; pictures made from it may identify a person.",
)


def text(dataset: Dataset, keyword: str) -> str:
    """The value as upper-case text, "" where there is none."""
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip().strip("\0").upper()
    except Exception:
        return ""


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values as numbers, empty where the element is absent, empty or malformed."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, bytes):
            return ()
        items = [value] if isinstance(value, str | int | float) else list(value)
        return tuple(float(item) for item in items)
    except Exception:
        return ()


def integer(dataset: Dataset, keyword: str, default: int) -> int:
    """The first value as an integer, or the default."""
    values = numbers(dataset, keyword)
    return int(values[0]) if values and math.isfinite(values[0]) else default


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence, empty where it is absent or malformed."""
    try:
        return tuple(dataset.get(keyword) or ())
    except Exception:
        return ()


def refuse_unless_radiograph(dataset: Dataset, limits: Limits) -> None:
    """Return only for a single-frame radiograph within the limits.

    Raises:
        UnsupportedFileError: no picture in it, another modality, more than one frame.
        UnreadableFileError: the size is missing or zero.
        LimitExceededError: more pixels than allowed.
    """
    modality = text(dataset, "Modality")
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        if "Rows" in dataset and modality in MODALITIES:
            raise UnreadableFileError("The DICOM file ends before its pixel data: it is truncated.", code="truncated")
        raise UnsupportedFileError("The DICOM file holds no picture; give a radiograph.", code="not_an_image")
    if modality not in MODALITIES:
        shown = modality if modality.isalnum() and len(modality) <= 16 else "another one"
        raise UnsupportedFileError(
            f"The DICOM modality is {shown}; give a radiograph (CR, DX, RF, XA or a secondary capture).",
            code="modality",
        )
    frames = integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnsupportedFileError(
            f"The DICOM file holds {frames} frames; give files of a single frame.", code="multi_frame"
        )
    rows, columns = integer(dataset, "Rows", 0), integer(dataset, "Columns", 0)
    if rows <= 0 or columns <= 0:
        raise UnreadableFileError("The DICOM file declares no rows or no columns.", code="damaged")
    refuse_too_many_pixels(rows, columns, limits)


def refuse_too_many_pixels(rows: int, columns: int, limits: Limits) -> None:
    """Return only within the limit.

    Raises:
        LimitExceededError: more pixels than allowed.
    """
    if rows * columns > limits.pixels:
        raise LimitExceededError(
            f"The picture has {rows} x {columns} pixels, more than the allowed {limits.pixels}.", code="pixels"
        )


def refuse_deep_nesting(dataset: Dataset, limits: Limits) -> None:
    """Return only when sequences nest no deeper than allowed.

    Raises:
        LimitExceededError: they nest deeper.
    """
    level, depth = [dataset], 0
    while level:
        if depth > limits.nesting:
            raise LimitExceededError(
                f"The DICOM file nests sequences deeper than the allowed {limits.nesting} levels.", code="nesting"
            )
        level, depth = [item for parent in level for item in _children(parent)], depth + 1


def _children(dataset: Dataset) -> Iterator[Dataset]:
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
            continue  # a broken private sequence says nothing about the picture


def spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str | None, tuple[Finding, ...]]:
    """(row, column) spacing in mm or None, the keyword it came from, and warnings.

    PixelSpacing goes before ImagerPixelSpacing, which is read where the former is absent or has a problem; the problem
    is among the warnings.
    """
    problems: tuple[Finding, ...] = ()
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if not _is_stated(dataset, keyword):
            continue
        values = numbers(dataset, keyword)
        problem = spacing_problem(keyword, values)
        if problem is not None:
            problems += (problem,)
            continue
        is_uncorrected = keyword == "ImagerPixelSpacing" or _is_at_detector(dataset)
        return (values[0], values[1]), keyword, (*problems, MAGNIFICATION) if is_uncorrected else problems
    ratio = numbers(dataset, "PixelAspectRatio")
    square = len(ratio) != 2 or ratio[0] == ratio[1]
    return None, None, problems if square else (*problems, ASPECT_RATIO)


def _is_stated(dataset: Dataset, keyword: str) -> bool:
    """True where the element holds something, even where that cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception:
        return True
    return value is not None and str(value).strip(" \0") not in ("", "[]")


def _is_at_detector(dataset: Dataset) -> bool:
    """True when PixelSpacing repeats ImagerPixelSpacing, which says that it was not calibrated (PS3.3 10.7.1.3)."""
    at_detector = numbers(dataset, "ImagerPixelSpacing")
    pairs = zip(numbers(dataset, "PixelSpacing"), at_detector, strict=False)
    return len(at_detector) == 2 and all(math.isclose(stated, other, rel_tol=1e-3) for stated, other in pairs)


def spacing_problem(keyword: str, values: tuple[float, ...]) -> Finding | None:
    """The finding that (row, column) in mm is not the spacing of a knee film, or None where it may be.

    Args:
        keyword: where the values stand in the file, for the message.
        values: as they stand there; none where they cannot be read.
    """
    low, high = PLAUSIBLE_SPACING_MM
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        code = "spacing_invalid"
    elif max(values) > min(values) * (1 + EQUAL_WITHIN):
        code = "spacing_unequal"
    elif min(values) < low or max(values) > high:
        code = "spacing_implausible"
    else:
        return None
    return Finding(code, f"{keyword} in the file {SPACING_PROBLEMS[code]}; it is not used.")


def laterality(dataset: Dataset) -> tuple[Laterality, str | None]:
    """Stated side and the keyword that states it."""
    for keyword in ("ImageLaterality", "Laterality"):
        if text(dataset, keyword) in SIDES:
            return SIDES[text(dataset, keyword)], keyword
    for groups in items(dataset, "SharedFunctionalGroupsSequence"):
        for anatomy in items(groups, "FrameAnatomySequence"):
            if text(anatomy, "FrameLaterality") in SIDES:
                return SIDES[text(anatomy, "FrameLaterality")], "FrameLaterality"
    for region in items(dataset, "AnatomicRegionSequence"):
        for modifier in items(region, "AnatomicRegionModifierSequence"):
            if text(modifier, "CodeValue") in SIDE_CODES:
                return SIDE_CODES[text(modifier, "CodeValue")], "AnatomicRegionModifierSequence"
    return "unknown", None


def identity(dataset: Dataset) -> Identity:
    """The UIDs of the file."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    return Identity(*(text(dataset, keyword) for keyword in keywords))


def burned_in(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning where the file declares burned-in text, or is a secondary capture that leaves it open."""
    declared = text(dataset, "BurnedInAnnotation")
    if declared == "YES":
        return (BURNED_IN,)
    is_capture = text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE)
    return (MAYBE_BURNED_IN,) if is_capture and declared != "NO" else ()
