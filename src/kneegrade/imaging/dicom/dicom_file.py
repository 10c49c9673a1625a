"""DICOM files to `DecodedImage`.

This module runs in the decoding process, because even parsing a header can require gigabytes of memory.
"""

import struct

import pydicom
from pydicom import uid
from pydicom.dataset import FileMetaDataset

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.cpu_limit import extend_cpu_limit
from kneegrade.imaging.dicom import dicom_header as header
from kneegrade.imaging.dicom.dicom_codecs import decode_stored_pixels
from kneegrade.imaging.dicom.dicom_defects import (
    add_missing_attributes,
    check_is_complete,
    excess_findings,
    parse,
    repair_encapsulation,
    trailing_findings,
)
from kneegrade.imaging.dicom.dicom_deflate import DEFLATED, inflated
from kneegrade.imaging.dicom.dicom_spacing import declared_aspect, pixel_spacing
from kneegrade.imaging.dicom.dicom_values import check_nesting, get_integer, get_text
from kneegrade.imaging.dicom.grey_levels import declared_polarity, to_grey_levels
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import DecodedImage

MAGIC = b"DICM"
PREAMBLE_BYTES = 128
LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"})  # explicit VRs with a length of four bytes


def is_dicom(data: bytes) -> bool:
    r"""True when the bytes begin like a DICOM file, with or without preamble.

    Example:
        >>> is_dicom(b"\0" * 128 + b"DICM"), is_dicom(b"not a film")
        (True, False)
    """
    if data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == MAGIC:
        return True
    if len(data) < 8:
        return False
    group, element, length = struct.unpack("<HHL", data[:8])
    if group in (0x0200, 0x0800, 0x1000):  # big endian
        group, element, length = struct.unpack(">HHL", data[:8])
    is_first_element = group in (0x0002, 0x0008, 0x0010) and element <= 0x0100
    return is_first_element and ((data[4:6].isalpha() and data[4:6].isupper()) or length <= 0x0100)


def read_dicom(data: bytes, limits: Limits) -> DecodedImage:
    """The radiograph in a DICOM file.

    Raises:
        UnsupportedFileError: the file is not a single-frame radiograph, or needs a missing codec.
        UnreadableFileError: the file is damaged or truncated.
        LimitExceededError: the image has too many pixels, or sequences are nested too deeply.
    """
    try:
        with pydicom.config.disable_value_validation():
            return _read(data, limits)
    except (KneeGradeError, MemoryError):
        raise
    except Exception as error:
        if _is_recursion_error(error):
            raise LimitExceededError(
                "The DICOM file nests sequences too deeply to be parsed.", code="nesting"
            ) from None
        raise UnreadableFileError(
            "The DICOM file is damaged or truncated; use another copy of the file.", code="damaged"
        ) from None


def _is_recursion_error(error: BaseException | None) -> bool:
    """True when the error is a RecursionError, or was raised while one was handled."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__context__
    return error is not None


def data_set(data: bytes, limits: Limits) -> pydicom.FileDataset:
    """The data set of a DICOM file, inflated within limits if it is deflated.

    Raises:
        LimitExceededError: it expands to more than allowed.
        UnreadableFileError: the compressed data are damaged or cut off.
    """
    declared, end = file_meta(data)
    return parse(inflated(data, end, limits) if declared == DEFLATED else data)


def _read(data: bytes, limits: Limits) -> DecodedImage:
    dataset = data_set(data, limits)
    transfer_syntax = _transfer_syntax(dataset)
    check_nesting(dataset, limits)
    repairs = header.check_is_radiograph(dataset, limits)
    extend_cpu_limit(get_integer(dataset, "Rows", 0) * get_integer(dataset, "Columns", 0))
    polarity = declared_polarity(dataset)
    if "PixelData" in dataset:
        repairs += trailing_findings(dataset)
        if transfer_syntax.is_encapsulated:
            repair_encapsulation(dataset)
        repairs += add_missing_attributes(dataset, is_encapsulated=transfer_syntax.is_encapsulated)
        if not transfer_syntax.is_encapsulated:
            check_is_complete(dataset)
            repairs += excess_findings(dataset)
    pixels, findings = to_grey_levels(decode_stored_pixels(dataset, transfer_syntax), dataset)
    spacing_mm, spacing_source, spacing_findings = pixel_spacing(dataset)
    side, side_source = header.laterality(dataset)
    return DecodedImage(
        pixels=pixels,
        pixel_spacing_mm=spacing_mm,
        spacing_source=spacing_source,
        pixel_aspect=None if spacing_mm else declared_aspect(dataset),
        laterality=side,
        laterality_source=side_source,
        view=get_text(dataset, "ViewPosition") or None,
        identity=header.identity(dataset),
        warnings=(
            *repairs,
            *findings,
            *spacing_findings,
            *header.laterality_findings(dataset),
            *header.projection_findings(dataset),
            *header.orientation_findings(dataset),
            *header.burned_in_findings(dataset),
        ),
        declared_polarity=polarity,
    )


def file_meta(data: bytes) -> tuple[str, int]:
    """The transfer syntax UID in the file meta group, "" when there is none, and the position after the group.

    The group is parsed here because pydicom inflates a deflated file before its transfer syntax can be checked.
    """
    declared = ""
    position = PREAMBLE_BYTES + 4 if data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == MAGIC else 0
    while data[position : position + 2] == b"\x02\x00" and position + 12 <= len(data):
        element = data[position + 2 : position + 4]
        vr = data[position + 4 : position + 6]
        if vr in LONG_VRS:
            start, length = position + 12, int.from_bytes(data[position + 8 : position + 12], "little")
        elif vr.isalpha():
            start, length = position + 8, int.from_bytes(data[position + 6 : position + 8], "little")
        else:  # implicit VR
            start, length = position + 8, int.from_bytes(data[position + 4 : position + 8], "little")
        if element == b"\x10\x00":
            declared = data[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = start + length
    return declared, position


def _transfer_syntax(dataset: pydicom.FileDataset) -> uid.UID:
    """The declared transfer syntax, or the encoding that pydicom detected when none is declared."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = FileMetaDataset()
    declared = meta.get("TransferSyntaxUID")
    if not declared:
        is_implicit, is_little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = declared = uid.ImplicitVRLittleEndian if is_implicit else explicit
    transfer_syntax = uid.UID(declared)
    if transfer_syntax == DEFLATED or not transfer_syntax.is_transfer_syntax or transfer_syntax.is_private:
        shown = f" {declared}" if transfer_syntax.name != transfer_syntax else ""  # any other may be an identity
        raise UnsupportedFileError(
            f"The transfer syntax{shown} is unknown or private; export the film as Explicit VR Little Endian.",
            code="transfer_syntax",
        )
    return transfer_syntax
