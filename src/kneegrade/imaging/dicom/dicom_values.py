"""Values of a DICOM header, which are untrusted, and the nesting of its sequences.

This module runs in the decoding process. The functions `get_*` return a default for an element that is absent, empty or
malformed.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, cast

from pydicom.dataset import Dataset

from kneegrade.errors import LimitExceededError
from kneegrade.imaging.limits import Limits


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
        return numbers_with_decimal_comma(dataset, keyword)


def numbers_with_decimal_comma(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of an element whose decimal points are written as commas; empty for any other element."""
    try:
        value = dataset.get(keyword)
        texts = [value] if isinstance(value, str) else [str(item) for item in value]
        return tuple(float(text.replace(",", ".")) for text in texts) if "," in "".join(texts) else ()
    except Exception:
        return ()


def get_texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All values as upper-case text, also when they are separated by a slash, comma or space instead of a backslash."""
    try:
        value = dataset.get(keyword)
        values = [value] if value is None or isinstance(value, str) else list(value)
        return tuple(text for item in values for text in re.split(r"[\\/,;+&\s\0]+", str(item or "").upper()) if text)
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
