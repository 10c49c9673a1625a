"""Repairs of common defects of DICOM files: missing attributes and sloppy encapsulation of compressed pixel data.

This module runs in the decoding process. A repair is made only where the file has one sensible reading.
"""

import math
import struct
from io import BytesIO
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag, repeater_has_tag
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag, Tag

from kneegrade.errors import UnreadableFileError
from kneegrade.imaging.dicom.dicom_values import get_integer, get_numbers, get_text
from kneegrade.results import Finding

ITEM = b"\xfe\xff\x00\xe0"
UNDEFINED_LENGTH = 0xFFFFFFFF
SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
OPEN_PIXEL_DATA = tuple(b"\xe0\x7f\x10\x00" + vr + b"\0\0\xff\xff\xff\xff" for vr in (b"OB", b"OW"))
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"})
SUBSAMPLED = frozenset({"YBR_FULL_422", "YBR_PARTIAL_420"})  # with fewer values than pixels times samples
PIXEL_DATA = Tag(0x7FE00010)
CUT_OFF = "The DICOM file is cut off within its pixel data; use another copy of the file."


def parse(data: bytes) -> pydicom.FileDataset:
    """The data set in the bytes of a file, also when the delimiter after its compressed pixel data is missing.

    pydicom returns an empty data set without that delimiter.
    """
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    if "PixelData" not in dataset and any(start in data for start in OPEN_PIXEL_DATA):
        return pydicom.dcmread(BytesIO(data + SEQUENCE_DELIMITER), force=True)
    return dataset


def repair_encapsulation(dataset: Dataset) -> None:
    """Replace compressed pixel data whose offset table is wrong by the same fragments without offset table.

    A file with a single frame needs no offset table: its frame consists of all fragments.

    Raises:
        UnreadableFileError: the file ends within a fragment.
    """
    fragments = _fragments(dataset.PixelData)
    if len(fragments) < 2:
        return
    table, *rest = fragments
    if (table and table != bytes(4)) or "ExtendedOffsetTable" in dataset:
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset["PixelData"].value = encapsulate([b"".join(rest)], has_bot=False)


def check_is_complete(dataset: Dataset) -> None:
    """Raise an error when uncompressed pixel data are shorter than their element declares and than the image needs.

    Raises:
        UnreadableFileError: the file ends within its pixel data.
    """
    element: Any = dataset.get_item("PixelData")
    keywords = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    bits = math.prod(get_integer(dataset, keyword, 1) for keyword in keywords)
    if _is_cut_off(element) and 8 * len(element.value or b"") < bits:
        raise UnreadableFileError(CUT_OFF, code="truncated")


def check_elements_are_complete(dataset: Dataset) -> None:
    """Raise an error when the file ends within an element; pydicom would read the rest of a report without a word.

    Raises:
        UnreadableFileError: an element is shorter than it declares.
    """
    if any(_is_cut_off(dataset.get_item(tag)) for tag in list(dataset.keys())):
        raise UnreadableFileError("The DICOM file is cut off; use another copy of the file.", code="truncated")


def _is_cut_off(element: Any) -> bool:
    """Whether an element as it stands in the file has fewer bytes than it declares."""
    declared = getattr(element, "length", 0)
    return len(element.value or b"") < declared < UNDEFINED_LENGTH


def excess_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when uncompressed pixel data are longer than the image, whose size may then be declared wrongly.

    One byte more is the padding to an even length.
    """
    keywords = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    needed = -(-math.prod(get_integer(dataset, keyword, 1) for keyword in keywords) // 8)
    excess = len(dataset.PixelData) - needed
    if excess <= 1 or get_text(dataset, "PhotometricInterpretation") in SUBSAMPLED:
        return ()
    return (pixel_data_excess(excess),)


def pixel_data_excess(excess: int) -> Finding:
    """The warning that pixel data are longer than the image."""
    return Finding(
        "pixel_data_excess",
        f"The pixel data are {excess} bytes longer than an image of the declared size; the rest was ignored. If rows, "
        "columns or bits are declared wrongly, the image is cut off or garbled.",
    )


def trailing_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A warning when bytes follow the pixel data that are no DICOM elements, as after an insertion into the pixels.

    Args:
        dataset: as parsed, before attributes were added: its elements are in the order of the file.
    """
    tags = list(dataset.keys())
    after = tags[tags.index(PIXEL_DATA) + 1 :] if PIXEL_DATA in tags else []
    if all(_is_known(dataset, tag) for tag in after):
        return ()
    message = (
        "Bytes that are no DICOM elements follow the pixel data. Bytes may have been inserted into the pixels, which "
        "are shifted then; compare the film with another copy."
    )
    return (Finding("trailing_bytes", message),)


def _is_known(dataset: Dataset, tag: BaseTag) -> bool:
    if tag.is_private:
        return tag.is_private_creator or (tag.group, tag.element >> 8) in dataset
    return dictionary_has_tag(tag) or repeater_has_tag(tag)


def _fragments(pixel_data: bytes) -> list[bytes]:
    """The offset table and the fragments; empty when the data are not encapsulated."""
    position, fragments = 0, []
    while pixel_data[position : position + 4] == ITEM:
        if position + 8 > len(pixel_data):
            raise UnreadableFileError(CUT_OFF, code="truncated")
        (length,) = struct.unpack_from("<L", pixel_data, position + 4)
        start, position = position + 8, position + 8 + length
        if position > len(pixel_data):
            raise UnreadableFileError(CUT_OFF, code="truncated")
        fragments.append(pixel_data[start:position])
    return fragments


def add_missing_attributes(dataset: Dataset, *, is_encapsulated: bool) -> tuple[Finding, ...]:
    """A warning that names the attributes which were missing and got their usual values.

    Args:
        dataset: a data set with PixelData, Rows and Columns; missing attributes are added to it.
        is_encapsulated: True when the pixel data are compressed.

    Raises:
        UnreadableFileError: an attribute is missing and the file does not show its value; the message names it.
    """
    added: dict[str, int | str] = {}

    def add(keyword: str, value: int | str) -> None:
        setattr(dataset, keyword, value)
        added[keyword] = value

    if not get_numbers(dataset, "SamplesPerPixel"):
        add("SamplesPerPixel", 3 if get_text(dataset, "PhotometricInterpretation") in COLOUR else 1)
    samples = get_integer(dataset, "SamplesPerPixel", 1)
    if not get_text(dataset, "PhotometricInterpretation"):
        if samples != 1:
            raise _missing("PhotometricInterpretation")
        add("PhotometricInterpretation", "MONOCHROME2")
    if not get_numbers(dataset, "BitsAllocated"):
        add("BitsAllocated", _bits_allocated(dataset, samples, is_encapsulated))
    if not get_numbers(dataset, "BitsStored"):
        add("BitsStored", get_integer(dataset, "BitsAllocated", 16))
    if not get_numbers(dataset, "HighBit"):
        add("HighBit", get_integer(dataset, "BitsStored", 16) - 1)
    if not get_numbers(dataset, "PixelRepresentation"):
        add("PixelRepresentation", 0)
    if samples > 1 and not get_numbers(dataset, "PlanarConfiguration"):
        add("PlanarConfiguration", 0)
    if not added:
        return ()
    assumed = ", ".join(f"{keyword} ({value})" for keyword, value in added.items())
    return (
        Finding(
            "attributes_missing", f"The file lacks required DICOM attributes; the usual values were used: {assumed}."
        ),
    )


def _bits_allocated(dataset: Dataset, samples: int, is_encapsulated: bool) -> int:
    """8 or 16, from the length of uncompressed pixel data."""
    number = get_integer(dataset, "Rows", 0) * get_integer(dataset, "Columns", 0) * samples
    length = len(dataset.PixelData)
    for size in (1, 2):
        if not is_encapsulated and number * size <= length <= number * size + 1:  # padded to an even length
            return 8 * size
    raise _missing("BitsAllocated")


def _missing(keyword: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"The DICOM file lacks the required attribute {keyword}; export the film again.", code="attributes_missing"
    )
