"""Bits of stored values: those that the header declares, unless bright bone would wrap to black.

BitsStored, HighBit and PixelRepresentation tell which bits of a value belong to the image. Some are wrong: values are
larger than BitsStored allows, or are unsigned although they are declared signed. Read as declared, bright bone then
wraps to black. Other files have overlays in the bits above BitsStored, which must be removed; an overlay covers a small
part of the film, or adds jumps between neighbouring pixels.

This module runs in the decoding process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom.dicom_values import get_integer
from kneegrade.results import Finding

StoredArray = NDArray[Any]

MIN_EXCEEDING = 0.05  # share of the pixels; fewer above BitsStored may be an overlay, unless jumps show a wrap
FEWER_WITHOUT_WRAP = 0.98  # sum of jumps with all bits, as a share of that of the declared bits, that shows a wrap
OVERLAY_VALUES = 2  # numbers that an overlay writes above BitsStored: with and without its bit
MAX_MORE_JUMPS = 1.25  # sum of jumps with all bits, as a multiple of that of the declared bits; more: an overlay
BIG_JUMP = 0.25  # of neighbouring pixels, as a share of the range of the declared bits
FEWER_JUMPS = 0.8  # sum of big jumps with the other sign, as a share of the declared one, from which it is used
ROW_STEP = 4  # every fourth row is compared

WRONG_HIGH_BIT = Finding(
    "stored_bits",
    "HighBit declares that the pixel values are in the high bits, but these are empty. The low bits were read.",
)


def read_stored_bits(values: StoredArray, dataset: Dataset) -> tuple[StoredArray, tuple[Finding, ...]]:
    """The values of the stored bits, and a warning if they are not those that the header declares.

    Args:
        values: (H, W) integers with all allocated bits.
        dataset: the header; its PixelRepresentation is corrected if it is wrong.
    """
    declared = remove_unused_bits(values, dataset)
    bits_stored = get_integer(dataset, "BitsStored", 8 * values.dtype.itemsize)
    if _is_other_sign(values, declared, 1 << bits_stored):
        is_signed = bool(np.issubdtype(values.dtype, np.signedinteger))
        dataset.PixelRepresentation = int(not is_signed)
        return _with_other_sign(values), (_wrong_sign(is_signed=is_signed),)
    if _bits_below(values, dataset):
        is_in_low_bits = values.min() >= 0 and values.max() < 1 << bits_stored
        return (values, (WRONG_HIGH_BIT,)) if is_in_low_bits else (declared, ())
    if not _has_overlay_in_pixels(dataset) and _exceeds(values, declared, 1 << bits_stored):
        return values, (_more_bits(bits_stored),)
    return declared, ()


def _is_other_sign(values: StoredArray, declared: StoredArray, full_scale: int) -> bool:
    """True when the declared values have more big jumps than the values of the other sign."""
    is_signed = np.issubdtype(values.dtype, np.signedinteger)
    may_wrap = declared.min() < 0 if is_signed else values.max() >= 1 << (8 * values.dtype.itemsize - 1)
    if not may_wrap:
        return False
    compared = (declared > declared.min()) & (declared < declared.max())  # without saturated pixels and padding
    least = BIG_JUMP * full_scale
    return _jumps(_with_other_sign(values), compared, least) < FEWER_JUMPS * _jumps(declared, compared, least)


def _with_other_sign(values: StoredArray) -> StoredArray:
    kind = "u" if np.issubdtype(values.dtype, np.signedinteger) else "i"
    return values.view(np.dtype(f"{kind}{values.dtype.itemsize}").newbyteorder(values.dtype.byteorder))


def _exceeds(values: StoredArray, declared: StoredArray, full_scale: int) -> bool:
    """True when the bits above the stored ones are a part of the values."""
    above = values.astype(np.int64) - declared
    is_within = values.min() >= 0 and values.max() < full_scale  # signed values whose sign is not extended
    if is_within or above.min() == above.max():
        return False
    everywhere = np.ones(values.shape, dtype=np.bool_)
    ratio = _jumps(values, everywhere) / max(_jumps(declared, everywhere), 1)
    if np.mean(above != 0) < MIN_EXCEEDING:
        return ratio < FEWER_WITHOUT_WRAP
    return ratio <= MAX_MORE_JUMPS or len(np.unique(above[::ROW_STEP])) > OVERLAY_VALUES


def _jumps(values: StoredArray, compared: NDArray[np.bool_], least: float = 0) -> float:
    """Sum of the absolute differences of neighbours in a row that are at least `least`, where both are compared."""
    rows, use = values[::ROW_STEP].astype(np.int64), compared[::ROW_STEP]
    jumps = np.abs(np.diff(rows, axis=1))
    return float(jumps[use[:, 1:] & use[:, :-1] & (jumps >= least)].sum())


def _has_overlay_in_pixels(dataset: Dataset) -> bool:
    """True when the header declares an overlay in the unused bits of the pixel data."""
    return any((group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in range(0x6000, 0x6020, 2))


def remove_unused_bits(values: StoredArray, dataset: Dataset) -> StoredArray:
    """Values without the bits above and below the stored bits, with the sign extended.

    Older devices wrote other data, such as overlays, into the unused bits.

    Args:
        values: (H, W) integers.
        dataset: the data set with BitsStored, HighBit and PixelRepresentation.
    """
    bits_allocated = values.dtype.itemsize * 8
    bits_stored = get_integer(dataset, "BitsStored", bits_allocated)
    if not 1 <= bits_stored < bits_allocated:
        return values
    unused = bits_allocated - bits_stored
    above = unused - _bits_below(values, dataset)
    return (values << above) >> unused


def _bits_below(values: StoredArray, dataset: Dataset) -> int:
    """Number of bits below the stored bits."""
    bits_allocated = values.dtype.itemsize * 8
    bits_stored = get_integer(dataset, "BitsStored", bits_allocated)
    below = get_integer(dataset, "HighBit", bits_stored - 1) + 1 - bits_stored
    return below if 0 <= below <= bits_allocated - bits_stored else 0


def _wrong_sign(*, is_signed: bool) -> Finding:
    wrong, right = ("signed", "unsigned") if is_signed else ("unsigned", "signed")
    return Finding(
        "stored_bits",
        f"The file declares {wrong} pixel values (PixelRepresentation), but neighbouring pixels "
        f"only fit together as {right} values. They were read as {right}.",
    )


def _more_bits(bits_stored: int) -> Finding:
    return Finding(
        "stored_bits",
        f"Pixel values are larger than the declared BitsStored ({bits_stored}) allows. All allocated bits were read.",
    )
