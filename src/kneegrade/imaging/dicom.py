"""DICOM file → `Picture`. Runs in the decoding process: even a header alone can ask for gigabytes."""

import struct
from io import BytesIO

import pydicom
from pydicom import uid
from pydicom.dataset import FileMetaDataset

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import dicom_header as header
from kneegrade.imaging.dicom_codecs import stored_picture
from kneegrade.imaging.grey_levels import grey_from
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import Picture

MAGIC = b"DICM"
PREAMBLE = 128
LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"})
DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(data: bytes) -> bool:
    r"""True when the bytes begin like a DICOM file, with or without its preamble.

    Example:
        >>> is_dicom(b"\0" * 128 + b"DICM"), is_dicom(b"not a film")
        (True, False)
    """
    if data[PREAMBLE : PREAMBLE + 4] == MAGIC:
        return True
    if len(data) < 8:
        return False
    group, element, length = struct.unpack("<HHL", data[:8])
    if group in (0x0200, 0x0800):  # big endian
        group, element, length = struct.unpack(">HHL", data[:8])
    known = group in (0x0002, 0x0008) and element <= 0x0100
    return known and ((data[4:6].isalpha() and data[4:6].isupper()) or length <= 0x0100)


def read_dicom(data: bytes, limits: Limits) -> Picture:
    """The radiograph in a DICOM file.

    Raises:
        UnsupportedFileError: not a radiograph of one frame, deflated, or no codec.
        UnreadableFileError: damaged or truncated.
        LimitExceededError: too many pixels, sequences nested too deep.
    """
    try:
        with pydicom.config.disable_value_validation():
            return _read(data, limits)
    except (KneeGradeError, MemoryError):
        raise
    except Exception as error:
        if _is_recursion(error):
            raise LimitExceededError("The DICOM file nests sequences too deep to be read.", code="nesting") from None
        raise UnreadableFileError("The DICOM file is damaged or truncated.", code="damaged") from None


def _is_recursion(error: BaseException | None) -> bool:
    """True when the error is, or was met while handling, too deep a recursion."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__context__
    return error is not None


def _read(data: bytes, limits: Limits) -> Picture:
    if declared_transfer_syntax(data) == DEFLATED:
        raise _deflated()
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    transfer_syntax = _transfer_syntax(dataset)
    header.refuse_deep_nesting(dataset, limits)
    header.refuse_unless_radiograph(dataset, limits)
    grey, findings = grey_from(stored_picture(dataset, transfer_syntax), dataset)
    spacing_mm, spacing_source, spacing_findings = header.spacing(dataset)
    side, side_source = header.laterality(dataset)
    return Picture(
        pixels=grey,
        pixel_spacing_mm=spacing_mm,
        spacing_source=spacing_source,
        laterality=side,
        laterality_source=side_source,
        view=header.text(dataset, "ViewPosition") or None,
        identity=header.identity(dataset),
        warnings=(*findings, *spacing_findings, *header.burned_in(dataset)),
    )


def _deflated() -> UnsupportedFileError:
    return UnsupportedFileError("The DICOM file is deflated, which is not read; convert it.", code="transfer_syntax")


def declared_transfer_syntax(data: bytes) -> str:
    """Transfer syntax UID in the file meta group, "" where there is none.

    Read by hand since pydicom unpacks a deflated file before it can be asked for its transfer syntax.
    """
    at = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == MAGIC else 0
    while data[at : at + 2] == b"\x02\x00" and at + 12 <= len(data):
        element = data[at + 2 : at + 4]
        if data[at + 4 : at + 6] in LONG_VRS:
            start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
        elif data[at + 4 : at + 6].isalpha():
            start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
        else:
            start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
        if element == b"\x10\x00":
            return data[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = start + length
    return ""


def _transfer_syntax(dataset: pydicom.FileDataset) -> uid.UID:
    """The stated transfer syntax, else the one the header turned out to have."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = FileMetaDataset()
    stated = meta.get("TransferSyntaxUID")
    if not stated:
        is_implicit, is_little = dataset.original_encoding
        plain = uid.ExplicitVRLittleEndian if is_little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = stated = uid.ImplicitVRLittleEndian if is_implicit else plain
    if stated == DEFLATED:
        raise _deflated()
    transfer_syntax = uid.UID(stated)
    if not transfer_syntax.is_transfer_syntax or transfer_syntax.is_private:
        raise UnsupportedFileError("The transfer syntax is unknown or private; convert the file.", "transfer_syntax")
    return transfer_syntax
