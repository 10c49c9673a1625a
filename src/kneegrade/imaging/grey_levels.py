"""Stored values → grey values that are bright where the file's tags say bright.

The grey-scale pipeline of DICOM PS3.4 (modality, values of interest, presentation), in float32 to keep films of
100 megapixels within the memory limit, and tolerant: a table or window that is malformed is left out. Runs in the
decoding process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom_codecs import StoredPicture
from kneegrade.imaging.dicom_header import integer, items, numbers, text
from kneegrade.results import Finding

Grey = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
MIN_INSIDE_WINDOW = 0.05

WINDOW_IGNORED = Finding(
    "window_ignored", "The display window in the file hides nearly all of the picture; it was not applied."
)


def grey_from(picture: StoredPicture, dataset: Dataset) -> tuple[Grey, tuple[Finding, ...]]:
    """Grey values and warnings.

    Args:
        picture: values as stored.
        dataset: the header they came with.

    Returns:
        (H, W) float32 of any range, NaN where the pixel is padding.
    """
    if picture.is_colour:
        return np.asarray(picture.values.astype(np.float32) @ LUMINANCE), ()
    padding = padding_mask(picture.values, dataset)
    grey, findings = values_of_interest(modality_values(picture.values, dataset), dataset, padding)
    if is_negative_by_tags(dataset):
        grey = -grey
    grey[padding] = np.nan
    return grey, findings


def is_negative_by_tags(dataset: Dataset) -> bool:
    """True when low values are to be shown bright.

    MONOCHROME1 and PresentationLUTShape INVERSE say the same thing and go together in DX files: not one inversion
    each.
    """
    is_monochrome1 = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return is_monochrome1 or text(dataset, "PresentationLUTShape") == "INVERSE"


def padding_mask(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """(H, W) bool, True where the stored value is declared to be no part of the picture."""
    low = _padding_limit(dataset, "PixelPaddingValue")
    if low is None:
        return np.zeros(values.shape, dtype=np.bool_)
    high = _padding_limit(dataset, "PixelPaddingRangeLimit")
    limits = sorted((low, low if high is None else high))
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _padding_limit(dataset: Dataset, keyword: str) -> int | None:
    values = numbers(dataset, keyword)
    if not values:
        return None
    value, bits = int(values[0]), integer(dataset, "BitsAllocated", 16)
    is_signed = integer(dataset, "PixelRepresentation", 0) == 1
    if is_signed and value >= 1 << (bits - 1):
        return value - (1 << bits)  # written as unsigned although the pixels are signed
    return value + (1 << bits) if not is_signed and value < 0 else value


def modality_values(values: NDArray[Any], dataset: Dataset) -> Grey:
    """Values after the modality table, or the rescale slope and intercept."""
    for item in items(dataset, "ModalityLUTSequence"):
        table = lookup_table(item, dataset)
        if table is not None:
            return through_table(values, *table)
    grey = values.astype(np.float32)
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if slope and np.isfinite(slope[0]) and slope[0] != 0:
        grey *= np.float32(slope[0])
    if intercept and np.isfinite(intercept[0]):
        grey += np.float32(intercept[0])
    return grey


def values_of_interest(grey: Grey, dataset: Dataset, padding: NDArray[np.bool_]) -> tuple[Grey, tuple[Finding, ...]]:
    """Values after the first table of interest, or the first window, unless it would hide the picture."""
    for item in items(dataset, "VOILUTSequence"):
        table = lookup_table(item, dataset)
        if table is not None:
            return through_table(np.rint(grey).astype(np.int64), *table), ()
    centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centres or not widths or not np.isfinite([centres[0], widths[0]]).all() or widths[0] <= 0:
        return grey, ()
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    windowed = through_window(grey, centres[0], widths[0], function)
    valid = windowed[~padding]
    if valid.size and np.mean((valid > 0.005) & (valid < 0.995)) < MIN_INSIDE_WINDOW and np.ptp(grey[~padding]) > 0:
        return grey, (WINDOW_IGNORED,)
    return windowed, ()


def through_window(grey: Grey, centre: float, width: float, function: str = "LINEAR") -> Grey:
    """Values in [0, 1] after a window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Example:
        >>> through_window(np.array([[0, 2047.5, 4095]], dtype=np.float32), 2048, 4096).tolist()
        [[0.0, 0.5, 1.0]]
    """
    if function == "SIGMOID":
        exponent = np.clip(-4 * (grey - np.float32(centre)) / np.float32(width), -80, 80)
        return np.asarray(1 / (1 + np.exp(exponent)), dtype=np.float32)
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1
    scaled = (grey - np.float32(centre)) * np.float32(1 / width) + np.float32(0.5)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def lookup_table(item: Dataset, dataset: Dataset) -> tuple[NDArray[np.float32], int] | None:
    """A table and the value that its first entry stands for, None where it is malformed."""
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = (int(value) for value in descriptor)
    data = item.get("LUTData")
    if isinstance(data, bytes):
        is_little = getattr(dataset, "original_encoding", (None, True))[1] is not False
        wide = len(data) >= 2 * (count % 65536 or 65536) or bits > 8
        data = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if is_little else ">u2") if wide else list(data)
    entries = np.asarray(numbers(item, "LUTData") if data is None else data, dtype=np.float32).ravel()
    entries = entries[: count % 65536 or 65536]
    if not entries.size:
        return None
    is_signed = integer(dataset, "PixelRepresentation", 0) == 1
    return entries, first - 65536 if is_signed and first >= 32768 else first


def through_table(values: NDArray[Any], entries: NDArray[np.float32], first: int) -> Grey:
    """Values looked up; those outside the table take its ends.

    Example:
        >>> through_table(np.array([[4, 5, 6, 9]]), np.array([1, 2, 4], dtype=np.float32), 4).tolist()
        [[1.0, 2.0, 4.0, 4.0]]
    """
    index = np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)
    return np.asarray(entries[index])
