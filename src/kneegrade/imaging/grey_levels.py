"""Stored values to grey levels with the polarity that the DICOM header declares.

The grey-scale pipeline of DICOM PS3.4: modality transformation, VOI transformation, presentation. It uses float32, so
that images of 100 megapixels stay within the memory limit, and ignores malformed lookup tables and windows. This
module runs in the decoding process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom_codecs import StoredPixels
from kneegrade.imaging.dicom_header import get_integer, get_items, get_numbers, get_text
from kneegrade.results import Finding

FloatImage = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
MIN_INSIDE_WINDOW = 0.05  # a window that clips all but this share of the pixels is ignored

WINDOW_IGNORED = Finding(
    "window_ignored", "The display window in the file clips nearly all of the image; it was not applied."
)


def to_grey_levels(stored: StoredPixels, dataset: Dataset) -> tuple[FloatImage, tuple[Finding, ...]]:
    """Grey levels and warnings.

    Args:
        stored: stored values.
        dataset: the header.

    Returns:
        (H, W) float32 of any range, NaN for padding pixels; and findings.
    """
    if stored.is_colour:
        return np.asarray(stored.values.astype(np.float32) @ LUMINANCE), ()
    padding = padding_mask(stored.values, dataset)
    grey, findings = apply_voi(apply_modality(stored.values, dataset), dataset, padding)
    if is_inverted_by_tags(dataset):
        grey = -grey
    grey[padding] = np.nan
    return grey, findings


def is_inverted_by_tags(dataset: Dataset) -> bool:
    """True when the header declares that low values are displayed bright.

    MONOCHROME1 and PresentationLUTShape INVERSE declare the same inversion and occur together in DX files; the image is
    inverted once, not twice.
    """
    is_monochrome1 = get_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return is_monochrome1 or get_text(dataset, "PresentationLUTShape") == "INVERSE"


def padding_mask(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """(H, W) bool, True where the stored value is declared as padding."""
    low = _padding_limit(dataset, "PixelPaddingValue")
    if low is None:
        return np.zeros(values.shape, dtype=np.bool_)
    high = _padding_limit(dataset, "PixelPaddingRangeLimit")
    limits = sorted((low, low if high is None else high))
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


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


def apply_voi(grey: FloatImage, dataset: Dataset, padding: NDArray[np.bool_]) -> tuple[FloatImage, tuple[Finding, ...]]:
    """Values after the first VOI lookup table, or after the first window unless it clips nearly all of the image."""
    for item in get_items(dataset, "VOILUTSequence"):
        table = read_lut(item, dataset)
        if table is not None:
            return apply_lut(np.rint(grey).astype(np.int64), *table), ()
    centres, widths = get_numbers(dataset, "WindowCenter"), get_numbers(dataset, "WindowWidth")
    if not centres or not widths or not np.isfinite([centres[0], widths[0]]).all() or widths[0] <= 0:
        return grey, ()
    function = get_text(dataset, "VOILUTFunction") or "LINEAR"
    windowed = apply_window(grey, centres[0], widths[0], function)
    valid = windowed[~padding]
    if valid.size and np.mean((valid > 0.005) & (valid < 0.995)) < MIN_INSIDE_WINDOW and np.ptp(grey[~padding]) > 0:
        return grey, (WINDOW_IGNORED,)
    return windowed, ()


def apply_window(grey: FloatImage, centre: float, width: float, function: str = "LINEAR") -> FloatImage:
    """Values in [0, 1] after a window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        grey: values after the modality transformation.
        centre: window centre.
        width: window width, positive.
        function: "LINEAR", "LINEAR_EXACT" or "SIGMOID"; any other is treated as "LINEAR".

    Example:
        >>> apply_window(np.array([[0, 2047.5, 4095]], dtype=np.float32), 2048, 4096).tolist()
        [[0.0, 0.5, 1.0]]
    """
    if function == "SIGMOID":
        exponent = np.clip(-4 * (grey - np.float32(centre)) / np.float32(width), -80, 80)
        return np.asarray(1 / (1 + np.exp(exponent)), dtype=np.float32)
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1
    scaled = (grey - np.float32(centre)) * np.float32(1 / width) + np.float32(0.5)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def read_lut(item: Dataset, dataset: Dataset) -> tuple[NDArray[np.float32], int] | None:
    """The entries of a lookup table and the value mapped to the first entry; None when the table is malformed."""
    descriptor = get_numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = (int(value) for value in descriptor)
    data = item.get("LUTData")
    if isinstance(data, bytes):
        is_little = getattr(dataset, "original_encoding", (None, True))[1] is not False
        is_16_bit = len(data) >= 2 * (count % 65536 or 65536) or bits > 8
        data = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little else ">u2") if is_16_bit else list(data)
    entries = np.asarray(get_numbers(item, "LUTData") if data is None else data, dtype=np.float32).ravel()
    entries = entries[: count % 65536 or 65536]
    if not entries.size:
        return None
    is_signed = get_integer(dataset, "PixelRepresentation", 0) == 1
    return entries, first - 65536 if is_signed and first >= 32768 else first


def apply_lut(values: NDArray[Any], entries: NDArray[np.float32], first: int) -> FloatImage:
    """Values after a lookup table; values outside its range get the first or the last entry.

    Args:
        values: integers.
        entries: table.
        first: value mapped to the first entry.

    Example:
        >>> apply_lut(np.array([[4, 5, 6, 9]]), np.array([1, 2, 4], dtype=np.float32), 4).tolist()
        [[1.0, 2.0, 4.0, 4.0]]
    """
    index = np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)
    return np.asarray(entries[index])
