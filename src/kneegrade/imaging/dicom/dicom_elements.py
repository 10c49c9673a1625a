"""Elements of a DICOM file as DICOM JSON (PS3.18 Annex F), for code outside the decoding process.

This module runs in the decoding process. An element that is malformed, private or too large is left out and named.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom import dicom_header
from kneegrade.imaging.dicom.dicom_defects import check_elements_are_complete
from kneegrade.imaging.dicom.dicom_file import data_set, is_dicom
from kneegrade.imaging.dicom.dicom_values import check_nesting
from kneegrade.imaging.dicom.header_keywords import FILM_KEYWORDS, MAX_DOCUMENT_BYTES, MAX_FILM_BYTES
from kneegrade.imaging.limits import Limits

BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
KEPT_BINARY: Final = frozenset({"LUTData"})
MAX_NESTING: Final = 24  # levels of sequences; a structured report of kneegrade has eight

Elements = dict[str, dict[str, Any]]


def read_elements(data: bytes, kind: str, limits: Limits) -> bytes:
    """The elements of a file as JSON text.

    Args:
        data: content of the file.
        kind: "film" for the elements in `FILM_KEYWORDS` and the SHA-256 of the stored pixel data; "document" for all
            standard elements of an object without an image.
        limits: for nesting and deflated files.

    Raises:
        UnsupportedFileError: the file is not DICOM, or is an image although a document is wanted.
        UnreadableFileError: the file is damaged.
        LimitExceededError: the document is too large, or expands to more than allowed.
    """
    file_sha256 = hashlib.sha256(data).hexdigest()
    if not is_dicom(data):
        raise UnsupportedFileError(
            "The file is not DICOM; a plain picture names no study to file an object under.", code="not_dicom"
        )
    try:
        with pydicom.config.disable_value_validation():
            dataset = data_set(data, limits)
            if kind == "document":
                check_elements_are_complete(dataset)
            check_nesting(dataset, limits)
            answer = _film(dataset) if kind == "film" else _document(dataset)
    except (KneeGradeError, MemoryError):
        raise
    except Exception:
        raise UnreadableFileError(
            "The header of the DICOM file is damaged; use another copy of the file.", code="damaged"
        ) from None
    answer["file_sha256"] = file_sha256
    return json.dumps(answer).encode("utf-8")


def _film(dataset: Dataset) -> dict[str, Any]:
    elements, left_out = listed_elements(dataset, FILM_KEYWORDS, MAX_FILM_BYTES)
    keyword = next((name for name in dicom_header.PIXEL_KEYWORDS if name in dataset), None)
    stored = b"" if keyword is None else dataset[keyword].value or b""
    return {"elements": elements, "left_out": left_out, "pixel_sha256": hashlib.sha256(stored).hexdigest()}


def _document(dataset: Dataset) -> dict[str, Any]:
    if any(keyword in dataset for keyword in dicom_header.PIXEL_KEYWORDS):
        raise UnsupportedFileError("The DICOM file is an image; expected a structured report.", code="not_a_report")
    keywords = [keyword for keyword in map(keyword_for_tag, list(dataset.keys())) if keyword]  # none for private tags
    elements, left_out = listed_elements(dataset, keywords, MAX_DOCUMENT_BYTES)
    if "ContentSequence" in left_out:
        raise LimitExceededError("The content of the structured report is damaged or too large.", code="document_size")
    return {"elements": elements, "left_out": left_out}


def listed_elements(dataset: Dataset, keywords: Iterable[str], max_bytes: int) -> tuple[Elements, list[str]]:
    """The elements with these keywords as DICOM JSON, and the keywords of those that are left out.

    Args:
        dataset: of the file.
        keywords: in the order in which they are kept while they fit.
        max_bytes: of all elements as JSON text.
    """
    elements: Elements = {}
    left_out, used = [], 0
    for keyword in keywords:
        try:
            if keyword not in dataset:
                continue
            value = _json_of(dataset[keyword], MAX_NESTING)
        except Exception:
            value = None
        size = 0 if value is None else len(json.dumps(value))
        if value is None or used + size > max_bytes:
            left_out.append(keyword)
        else:
            elements[f"{dataset[keyword].tag:08X}"] = value
            used += size
    return elements, left_out


def _json_of(element: DataElement, depth: int) -> dict[str, Any] | None:
    """The element as DICOM JSON; None for binary values other than lookup tables, and for too deep sequences."""
    if element.VR == "SQ":
        return None if depth == 0 else {"vr": "SQ", "Value": [_item_json(item, depth - 1) for item in element.value]}
    if element.VR in BINARY_VRS and element.keyword not in KEPT_BINARY:
        return None
    return element.to_json_dict(None, MAX_DOCUMENT_BYTES)


def _item_json(item: Dataset, depth: int) -> Elements:
    """The standard elements of an item; the others are left out."""
    elements: Elements = {}
    for tag in list(item.keys()):
        if tag.is_private:
            continue
        value = _json_of(item[tag], depth)
        if value is not None:
            elements[f"{tag:08X}"] = value
    return elements
