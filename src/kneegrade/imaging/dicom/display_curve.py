"""VOI transformation of a DICOM file: windows and lookup tables for display.

A window that is a straight line is not applied. All grey levels are scaled to the percentiles of the film afterwards
(`photometry.normalise`), so such a window could only clip; clipping bone changes grades, and windows in files are often
meant for other tissue, for 8 bits or for one reader. A mild curve (SIGMOID, VOI LUT) is not applied either, so that a
film has the same grades whichever of its windows comes first. A curve that is far from a straight line, as one that
turns the exposure into an image, belongs to the image and is applied, with a warning
(docs/background/decisions.md has the measurements).

This module runs in the decoding process.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom.dicom_values import get_integer, get_items, get_numbers, get_text
from kneegrade.imaging.photometry import field_values
from kneegrade.results import Finding

FloatImage = NDArray[np.float32]

MAX_BONE_CLIPPED = 0.15  # share of the film that a window may clip at the end of the scale where bone is
MAX_AIR_CLIPPED = 0.8  # … at the other end
CLIPPED = 0.005  # distance from the end of a curve that counts as clipped
STRAIGHT: Final = 0.85  # squared correlation of stored and displayed values, from which a curve is mild


@dataclass(frozen=True)
class DisplayCurve:
    """One window or lookup table of a file.

    Attributes:
        name: for messages.
        apply: displayed values of any range, from values after the modality transformation.
        is_line: True for a linear window.
    """

    name: str
    apply: Callable[[FloatImage], FloatImage]
    is_line: bool


@dataclass(frozen=True)
class CurveShape:
    """What a curve does to the grey values of a film.

    Attributes:
        low, high: shares of the film that are clipped at the lower and at the upper end of the stored values.
        correlation: of stored and displayed values that are not clipped; negative for a curve that inverts.
    """

    low: float
    high: float
    correlation: float


def apply_voi(
    grey: FloatImage, dataset: Dataset, padding: NDArray[np.bool_], *, bone_is_low: bool = False
) -> tuple[FloatImage, tuple[Finding, ...]]:
    """Values for grading, and a warning if the first window hides the bone or a curve was applied.

    Args:
        grey: (H, W) values after the modality transformation.
        dataset: the header.
        padding: (H, W) bool, True for padding.
        bone_is_low: True if low values are displayed bright (MONOCHROME1).
    """
    curves = list(display_curves(dataset))
    if not curves or padding.all():
        return grey, ()
    values = np.sort(field_values(grey, padding))
    if values[0] == values[-1]:
        return grey, ()
    shapes = [curve_shape(curve, values) for curve in curves]
    hidden = [_hides_bone(shape, bone_is_low=bone_is_low) for shape in shapes]
    findings = (_ignored(curves[0], shapes[0]),) if hidden[0] else ()
    for curve, shape, hides in zip(curves, shapes, hidden, strict=True):
        if hides:
            continue
        if not curve.is_line and shape.correlation**2 < STRAIGHT:
            return curve.apply(grey), (*findings, _applied(curve))
        return (-grey if shape.correlation < 0 else grey), findings
    return grey, findings


def display_curves(dataset: Dataset) -> Iterator[DisplayCurve]:
    """The valid lookup tables, then the valid windows of a file, in the order in which viewers use them."""
    for item in get_items(dataset, "VOILUTSequence"):
        table = read_lut(item, dataset)
        if table is not None and np.ptp(table[0]) > 0:
            yield DisplayCurve("The VOI LUT", partial(_apply_table, entries=table[0], first=table[1]), is_line=False)
    declared = get_text(dataset, "VOILUTFunction")
    function = declared if declared in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    centres, widths = get_numbers(dataset, "WindowCenter"), get_numbers(dataset, "WindowWidth")
    for centre, width in zip(centres, widths, strict=False):
        if np.isfinite([centre, width]).all() and width > 0:
            name = f"The display window (center {centre:g}, width {width:g}, {function})"
            window = partial(apply_window, centre=centre, width=width, function=function)
            yield DisplayCurve(name, window, is_line=function != "SIGMOID")


def curve_shape(curve: DisplayCurve, values: FloatImage) -> CurveShape:
    """What a curve does to sorted grey values (N,)."""
    shown = curve.apply(values).astype(np.float64)
    low, high = (0.0, 1.0) if shown.min() >= 0 and shown.max() <= 1 else (shown.min(), shown.max())
    margin = CLIPPED * (high - low)
    is_clipped = (shown <= low + margin) | (shown >= high - margin)
    inside = np.flatnonzero(~is_clipped)
    if len(inside) < 2 or np.ptp(values[inside]) == 0 or np.ptp(shown[inside]) == 0:
        middle = int(np.argmax(shown > (low + high) / 2)) if shown[-1] > shown[0] else len(values)
        return CurveShape(middle / len(values), 1 - middle / len(values), 1.0)
    first, last = inside[0], inside[-1]
    correlation = float(np.corrcoef(values[inside], shown[inside])[0, 1])
    return CurveShape(first / len(values), 1 - (last + 1) / len(values), correlation)


def _hides_bone(shape: CurveShape, *, bone_is_low: bool) -> bool:
    bone, air = (shape.low, shape.high) if bone_is_low else (shape.high, shape.low)
    if shape.correlation < 0:
        bone, air = air, bone
    return bone > MAX_BONE_CLIPPED or air > MAX_AIR_CLIPPED


def _ignored(curve: DisplayCurve, shape: CurveShape) -> Finding:
    return Finding(
        "window_ignored",
        f"{curve.name} in the file hides the knee: it clips {shape.low + shape.high:.0%} of the film. It was not "
        "applied; the full range of grey values was used.",
    )


def _applied(curve: DisplayCurve) -> Finding:
    return Finding(
        "display_curve_applied",
        f"{curve.name} in the file changes the contrast strongly. It was applied; the stored grey values without it "
        "could give other grades.",
    )


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


def _apply_table(grey: FloatImage, entries: NDArray[np.float32], first: int) -> FloatImage:
    return apply_lut(np.rint(grey), entries, first)
