"""Pixel spacing in a DICOM header: which element states it, and why it is not used or not corrected.

This module runs in the decoding process.
"""

import math

from pydicom.dataset import Dataset

from kneegrade.imaging.dicom.dicom_values import get_numbers, numbers_with_decimal_comma
from kneegrade.results import Finding

PLAUSIBLE_SPACING_MM = (0.02, 1.0)
SPACING_TOLERANCE = 0.01  # largest relative difference of row and column spacing that counts as equal
MAGNIFICATION = Finding(
    "magnification_uncorrected",
    "The pixel spacing refers to the detector; lengths are not corrected for geometric magnification.",
)
SPACING_PROBLEMS = {
    "spacing_invalid": "is not a pair of positive numbers",
    "spacing_unequal": "differs between rows and columns",
    "spacing_implausible": "is implausible for a knee radiograph",
    "spacing_placeholder": "is exactly 1 mm, which programs write when they do not know the spacing",
}
PLAUSIBLE_ASPECT = (0.25, 4.0)  # height over width of a pixel


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
        if numbers_with_decimal_comma(dataset, keyword):
            message = f"{keyword} in the file has decimal commas; it was read as {values[0]:g} and {values[1]:g} mm."
            problems += (Finding("spacing_decimal_comma", message),)
        is_uncorrected = keyword == "ImagerPixelSpacing" or _is_detector_spacing(dataset)
        return (values[0], values[1]), keyword, (*problems, _magnification(dataset)) if is_uncorrected else problems
    aspect = declared_aspect(dataset)
    return None, None, problems if aspect is None else (*problems, _aspect_ratio(aspect))


def declared_aspect(dataset: Dataset) -> float | None:
    """Height over width of a pixel that is not square, from PixelAspectRatio or an unequal PixelSpacing; else None.

    PixelAspectRatio is the vertical, then the horizontal size of a pixel (PS3.3, C.7.6.3.1.7).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        values = get_numbers(dataset, keyword)
        if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
            continue
        aspect = values[0] / values[1]
        is_square = abs(math.log(aspect)) <= math.log(1 + SPACING_TOLERANCE)
        if not is_square and PLAUSIBLE_ASPECT[0] <= aspect <= PLAUSIBLE_ASPECT[1]:
            return aspect
    return None


def _aspect_ratio(aspect: float) -> Finding:
    return Finding(
        "aspect_ratio",
        f"The file declares pixels that are not square: {aspect:.3g} times as high as wide. The knee is graded without "
        "this stretch if its outline is natural then; otherwise the stretch is estimated from the outline.",
    )


def _magnification(dataset: Dataset) -> Finding:
    """The warning that lengths are not corrected for magnification, with the factor if the file estimates one."""
    factor = get_numbers(dataset, "EstimatedRadiographicMagnificationFactor")
    if len(factor) != 1 or not 1 < factor[0] < 3:
        return MAGNIFICATION
    return Finding(
        MAGNIFICATION.code,
        f"{MAGNIFICATION.message} The file estimates a magnification of {factor[0]:g}; divide the lengths by it to get "
        "those in the plane of the knee.",
    )


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
    elif values == (1.0, 1.0):
        code = "spacing_placeholder"
    else:
        return None
    return Finding(code, f"{keyword} in the file {SPACING_PROBLEMS[code]}; it is not used.")
