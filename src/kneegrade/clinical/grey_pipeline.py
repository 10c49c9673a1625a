"""The grey scale pipeline of a film for a presentation state: what is malformed is left out, as in grading."""

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kneegrade.clinical.film_header import FilmHeader

if TYPE_CHECKING:
    from pydicom import Dataset

WINDOW: Final = ("WindowCenter", "WindowWidth", "VOILUTFunction")
TABLES: Final = ("ModalityLUTSequence", "VOILUTSequence")
FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def source_with_grey_pipeline(header: FilmHeader, *, ignore_window: bool) -> "Dataset":
    """The image that a presentation state refers to, with at most one VOI lookup table or else one window.

    Lookup tables and windows that kneegrade cannot read are removed; a VOI lookup table takes the place of a window, as
    in `imaging.grey_levels`.

    Args:
        header: of the film.
        ignore_window: whether kneegrade did not apply the window.
    """
    source = copy.deepcopy(header.image)
    source.SamplesPerPixel = 1
    for keyword in TABLES:
        table = _first_table(source.get(keyword) or ())
        _remove(source, [keyword])
        if table is not None:
            setattr(source, keyword, [table])
    if ignore_window or "VOILUTSequence" in source or not _is_window(source):
        _remove(source, WINDOW)
    elif source.get("VOILUTFunction") not in FUNCTIONS:
        _remove(source, ["VOILUTFunction"])
    return source


def _remove(source: "Dataset", keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if keyword in source:
            del source[keyword]


def _is_window(source: "Dataset") -> bool:
    """True if centre and width are numbers and the width is positive."""
    try:
        centre, width = float(source.WindowCenter), float(source.WindowWidth)
    except (AttributeError, TypeError, ValueError):
        return False
    return bool(np.isfinite([centre, width]).all()) and width > 0


def _first_table(items: Iterable["Dataset"]) -> "Dataset | None":
    """The first lookup table with a valid descriptor and its data as 16-bit words, or None."""
    for item in items:
        try:
            descriptor, data = [int(value) for value in item.LUTDescriptor], _words(item.LUTData)
        except (AttributeError, TypeError, ValueError, OverflowError):
            continue
        entries = descriptor[0] % 65536 or 65536 if len(descriptor) == 3 else -1
        if len(data) != 2 * entries or not 8 <= descriptor[2] <= 16:
            continue
        table = copy.deepcopy(item)
        del table[0x0028, 0x3006]
        table.add_new(0x00283006, "OW", data)
        return table
    return None


def _words(value: Any) -> bytes:
    """LUT Data as little-endian words; it may be stored as bytes or as numbers."""
    return value if isinstance(value, bytes) else np.asarray(list(value)).astype("<u2").tobytes()
