"""Stored values of a DICOM picture, whatever its transfer syntax.

Runs in the decoding process only: some of these codecs end their process on a malformed stream. GDCM, the most
brittle, is asked last.

The size a compressed stream declares for itself, asked before any codec sees it.

A codec allocates what the stream says, not what the DICOM header says, and pydicom reshapes whatever comes out as
long as the number of pixels agrees: 160 x 150 decoded as 150 x 160 is a garbled film without an error.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from kneegrade.errors import UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom_header import integer, text

JPEG_START = b"\xff\xd8"
CODESTREAM_START = b"\xff\x4f\xff\x51"
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF of JPEG and of JPEG-LS
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
JP2_BOXES = 65536  # where the codestream must begin when it is wrapped in boxes


def declared_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream, None where none is stated."""
    try:
        if stream.startswith(JPEG_START):
            return _jpeg_size(stream)
        start = stream.find(CODESTREAM_START, 0, JP2_BOXES)
        if start >= 0:
            right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
            return bottom - top, right - left
    except struct.error:  # cut off
        pass
    return None


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    at = len(JPEG_START)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in STANDALONE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">HH", stream, at + 5)
            return (rows, columns) if rows else None  # 0: stated after the scan
        at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    return None


Stored = NDArray[Any]

PREFERENCE = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
UNCORRECTED: dict[str, Any] = {"correct_unused_bits": False}  # pydicom's correction overlooks HighBit; see below
PACKAGES: dict[str, str] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "python-gdcm",
    uid.JPEGLossless: "python-gdcm",
    uid.JPEGLosslessSV1: "python-gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg-openjpeg",
    uid.JPEG2000: "pylibjpeg-openjpeg",
    uid.HTJ2KLossless: "pylibjpeg-openjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg-openjpeg",
    uid.HTJ2K: "pylibjpeg-openjpeg",
}


@dataclass(frozen=True, eq=False)
class StoredPicture:
    """Values as stored.

    Attributes:
        values: (H, W) or (H, W, 3), integer or floating.
        is_colour: True when the last axis is red, green, blue.
    """

    values: Stored
    is_colour: bool


def stored_picture(dataset: Dataset, transfer_syntax: uid.UID) -> StoredPicture:
    """The first frame as stored, colour as RGB.

    Args:
        dataset: a data set with pixel data.
        transfer_syntax: how it is encoded.

    Raises:
        UnsupportedFileError: no codec for the transfer syntax; the message names the package.
        UnreadableFileError: every codec refused the data.
    """
    size = integer(dataset, "Rows", 0), integer(dataset, "Columns", 0)
    if transfer_syntax.is_encapsulated and (_size_of_stream(dataset) or size) != size:
        raise _wrong_size()
    decoded = _decode(dataset, transfer_syntax)
    if decoded is None:
        raise UnreadableFileError(
            f"The pixel data could not be decoded: they are damaged, cut off or not {transfer_syntax.name} "
            f"of the declared size.",
            code="damaged",
        )
    values, photometric = decoded
    if values.ndim == 2 and np.issubdtype(values.dtype, np.integer):
        values = without_spare_bits(values, dataset)
    if photometric == "PALETTE COLOR":
        values = _through_palette(values, dataset)
    if values.shape[:2] != size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise _wrong_size()
    return StoredPicture(values, values.ndim == 3)


def _wrong_size() -> UnreadableFileError:
    return UnreadableFileError("The pixel data do not have the size that the header declares.", code="damaged")


def _size_of_stream(dataset: Dataset) -> tuple[int, int] | None:
    try:
        return declared_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
    except MemoryError:
        raise
    except Exception:  # the codecs get the last word on broken encapsulation
        return None


def _decode(dataset: Dataset, transfer_syntax: uid.UID) -> tuple[Stored, str] | None:
    """Values and photometric interpretation from the first codec that succeeds, None when all fail."""
    try:
        decoder = get_decoder(transfer_syntax)
    except NotImplementedError:
        raise UnsupportedFileError(
            f"The transfer syntax {transfer_syntax.name} is not supported; convert the file.", code="transfer_syntax"
        ) from None
    plugins: list[str] = [name for name in PREFERENCE if name in decoder.available_plugins]
    if transfer_syntax.is_encapsulated and not plugins:
        package = PACKAGES.get(transfer_syntax, "another codec for pydicom")
        raise UnsupportedFileError(
            f"No codec is installed for the transfer syntax {transfer_syntax.name}; install {package}.", code="codec"
        )
    for plugin in plugins or [""]:
        try:
            if plugin == "gdcm" and _is_extended_12_bit(dataset, transfer_syntax):
                return _extended_12_bit(dataset), text(dataset, "PhotometricInterpretation")
            values, meta = decoder.as_array(dataset, index=0, decoding_plugin=plugin, **UNCORRECTED)
            return values, str(meta["photometric_interpretation"])
        except MemoryError:
            raise
        except Exception:
            continue
    return None


def without_spare_bits(values: Stored, dataset: Dataset) -> Stored:
    """Values without what older devices kept in the bits above (or below) the stored ones, sign restored.

    Args:
        values: (H, W) integer.
        dataset: gives BitsStored, HighBit and PixelRepresentation.
    """
    allocated = values.dtype.itemsize * 8
    stored = integer(dataset, "BitsStored", allocated)
    if not 1 <= stored < allocated:
        return values
    below = integer(dataset, "HighBit", stored - 1) + 1 - stored
    above = allocated - stored - (below if 0 <= below <= allocated - stored else 0)
    return (values << above) >> (allocated - stored)


def _through_palette(values: Stored, dataset: Dataset) -> Stored:
    try:
        return np.asarray(apply_color_lut(values, dataset))[..., :3]
    except MemoryError:
        raise
    except Exception:
        raise UnreadableFileError("The colour palette of the picture is damaged.", code="damaged") from None


def _is_extended_12_bit(dataset: Dataset, transfer_syntax: uid.UID) -> bool:
    return transfer_syntax == uid.JPEGExtended12Bit and integer(dataset, "BitsStored", 8) > 8


def _extended_12_bit(dataset: Dataset) -> Stored:
    """(H, W) uint16 of a 12-bit JPEG, which GDCM decodes although pydicom does not ask it to."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(get_frame(dataset.PixelData, 0, number_of_frames=1))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    rows, columns, stored = dataset.Rows, dataset.Columns, dataset.BitsStored
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, stored, stored - 1, dataset.PixelRepresentation))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM hands its bytes over as text
    dtype = np.dtype(np.int16 if dataset.PixelRepresentation else np.uint16)
    return np.frombuffer(buffer, dtype).reshape(rows, columns)
