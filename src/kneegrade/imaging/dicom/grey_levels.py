"""Stored values to grey levels with the polarity that the DICOM header declares.

The grey-scale pipeline of DICOM PS3.4: modality transformation, VOI transformation (as far as grading needs it,
`display_curve`), presentation. It uses float32, so that images of 100 megapixels stay within the memory limit, and
ignores malformed lookup tables and windows. This module runs in the decoding process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom.dicom_codecs import StoredPixels
from kneegrade.imaging.dicom.dicom_values import get_integer, get_items, get_numbers, get_text
from kneegrade.imaging.dicom.display_curve import apply_lut, apply_voi, read_lut
from kneegrade.results import Finding

FloatImage = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def to_grey_levels(stored: StoredPixels, dataset: Dataset) -> tuple[FloatImage, tuple[Finding, ...]]:
    """Grey levels and warnings.

    Args:
        stored: stored values.
        dataset: the header.

    Returns:
        (H, W) float32 of any range, NaN for padding pixels; and findings.
    """
    if stored.is_colour:
        return np.asarray(stored.values.astype(np.float32) @ LUMINANCE), stored.findings
    padding = padding_mask(stored.values, dataset)
    is_inverted = is_inverted_by_tags(dataset)
    grey, findings = apply_voi(apply_modality(stored.values, dataset), dataset, padding, bone_is_low=is_inverted)
    if is_inverted:
        grey = -grey
    grey[padding] = np.nan
    return grey, (*stored.findings, *findings)


def is_inverted_by_tags(dataset: Dataset) -> bool:
    """True when the header declares that low values are displayed bright.

    MONOCHROME1 and PresentationLUTShape INVERSE declare the same inversion and occur together in DX files; the image is
    inverted once, not twice.
    """
    is_monochrome1 = get_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return is_monochrome1 or get_text(dataset, "PresentationLUTShape") == "INVERSE"


def declared_polarity(dataset: Dataset) -> str | None:
    """The value that declares the polarity, for example "MONOCHROME1"; None when there is none, as in colour images."""
    if get_text(dataset, "PresentationLUTShape") == "INVERSE":
        return "PresentationLUTShape INVERSE"
    declared = get_text(dataset, "PhotometricInterpretation")
    return declared if declared in ("MONOCHROME1", "MONOCHROME2") else None


def padding_mask(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """(H, W) bool, True where the stored value is declared as padding, in regions that touch the border.

    Elsewhere the value is that of a pixel, for example of bone that is as bright as the padding.
    """
    low = _padding_limit(dataset, "PixelPaddingValue")
    if low is None:
        return np.zeros(values.shape, dtype=np.bool_)
    high = _padding_limit(dataset, "PixelPaddingRangeLimit")
    limits = sorted((low, low if high is None else high))
    is_padding = (values >= limits[0]) & (values <= limits[1])
    if is_padding.any():
        from scipy import ndimage  # takes half of the start of the decoding process, and few films have padding

        regions, _ = ndimage.label(is_padding)
        edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
        is_padding &= np.isin(regions, np.unique(edges[edges > 0]))
    return np.asarray(is_padding)


def _padding_limit(dataset: Dataset, keyword: str) -> int | None:
    values = get_numbers(dataset, keyword)
    if not values:
        return None
    value, bits = int(values[0]), get_integer(dataset, "BitsAllocated", 16)
    is_signed = get_integer(dataset, "PixelRepresentation", 0) == 1
    if is_signed and value >= 1 << (bits - 1):
        return value - (1 << bits)  # written as unsigned although the pixels are signed
    return value + (1 << bits) if not is_signed and value < 0 else value


def apply_modality(values: NDArray[Any], dataset: Dataset) -> FloatImage:
    """Values after the modality lookup table, or after rescale slope and intercept."""
    for item in get_items(dataset, "ModalityLUTSequence"):
        table = read_lut(item, dataset)
        if table is not None:
            return apply_lut(values, *table)
    grey = values.astype(np.float32)
    slope, intercept = get_numbers(dataset, "RescaleSlope"), get_numbers(dataset, "RescaleIntercept")
    if slope and np.isfinite(slope[0]) and slope[0] != 0:
        grey *= np.float32(slope[0])
    if intercept and np.isfinite(intercept[0]):
        grey += np.float32(intercept[0])
    return grey
