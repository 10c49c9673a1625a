"""Pixel data of a DICOM data set to stored values, for every supported transfer syntax.

This module runs only in the decoding process: some codecs crash their process on a malformed stream. GDCM is the least
robust codec and is therefore tried last.

The size that a compressed stream declares is compared with the header before a codec decodes it. A codec allocates
memory for the size in the stream, not in the header, and pydicom reshapes any output with the right number of pixels:
a stream of 160 x 150 pixels under a header of 150 x 160 would give a garbled image without an error.
"""

import re
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from kneegrade.errors import UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom.dicom_defects import pixel_data_excess
from kneegrade.imaging.dicom.dicom_values import get_integer, get_text
from kneegrade.imaging.dicom.stored_bits import read_stored_bits, remove_unused_bits
from kneegrade.results import Finding

StoredArray = NDArray[Any]

ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
BITS_ALLOCATED = (1, 8, 16, 32)
PHOTOMETRIC_INTERPRETATIONS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT",
    "YBR_RCT",
)  # fmt: skip
OTHER_INTERPRETATIONS = ("", "ARGB", "CMYK", "HSV", "XYB", "YBR_PARTIAL_422")  # that a message names

JPEG_START = b"\xff\xd8"
CODESTREAM_START = b"\xff\x4f\xff\x51"  # JPEG 2000: SOC and SIZ
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF of JPEG and of JPEG-LS
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
RLE_PADDING = re.compile(r"(\d+) vs\. (\d+) bytes expected")  # in a warning of pydicom
MAX_RLE_PADDING = 2  # bytes after a segment that some programs write
MAX_JP2_BOX_BYTES = 65536  # a codestream wrapped in JP2 boxes must begin within these bytes
CODEC_ORDER = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
DECODER_OPTIONS: dict[str, Any] = {"correct_unused_bits": False}  # pydicom ignores HighBit; see `stored_bits`
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
class StoredPixels:
    """Stored values, before the modality transformation.

    Attributes:
        values: (H, W) or (H, W, 3) integers or floating-point numbers.
        is_colour: True when the last axis is red, green, blue.
        findings: a warning if the header declares the stored bits wrongly.
    """

    values: StoredArray
    is_colour: bool
    findings: tuple[Finding, ...] = ()


def decode_stored_pixels(dataset: Dataset, transfer_syntax: uid.UID) -> StoredPixels:
    """The stored values of the first frame; colour images as RGB.

    Args:
        dataset: a data set with pixel data.
        transfer_syntax: transfer syntax of the pixel data.

    Raises:
        UnsupportedFileError: no codec for the transfer syntax is installed; the message names the package.
        UnreadableFileError: every codec failed, or the size differs from the header.
    """
    size = get_integer(dataset, "Rows", 0), get_integer(dataset, "Columns", 0)
    _check_pixel_format(dataset)
    if transfer_syntax == ENCAPSULATED_UNCOMPRESSED:
        dataset.PixelData = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.file_meta.TransferSyntaxUID = transfer_syntax = uid.ExplicitVRLittleEndian
    if transfer_syntax.is_encapsulated and (_encapsulated_size(dataset) or size) != size:
        raise _wrong_size()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoded = _decode(dataset, transfer_syntax)
    if decoded is None:
        raise UnreadableFileError(
            f"The pixel data could not be decoded: they are damaged, truncated or not {transfer_syntax.name} of the "
            "declared size.",
            code="damaged",
        )
    values, photometric_interpretation = decoded
    findings: tuple[Finding, ...] = ()
    if photometric_interpretation == "PALETTE COLOR":
        values = _apply_palette(remove_unused_bits(values, dataset), dataset)
    elif values.ndim == 2 and np.issubdtype(values.dtype, np.integer):
        values, findings = read_stored_bits(values, dataset)
    if values.shape[:2] != size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise _wrong_size()
    return StoredPixels(values, values.ndim == 3, (*findings, *_excess_findings(map(str, caught))))


def _excess_findings(messages: Iterable[str]) -> tuple[Finding, ...]:
    """A warning when RLE segments are longer than the image, whose size may then be declared wrongly.

    Args:
        messages: warnings of pydicom.
    """
    found = [match for message in messages if (match := RLE_PADDING.search(message))]
    excess = max((int(match[1]) - int(match[2]) for match in found), default=0)
    return (pixel_data_excess(excess),) if excess > MAX_RLE_PADDING else ()


def _check_pixel_format(dataset: Dataset) -> None:
    """Raise an error that names the attribute if samples, bits or colours are of a kind that no codec reads.

    Raises:
        UnsupportedFileError: the pixel format is not supported.
    """
    samples, bits = get_integer(dataset, "SamplesPerPixel", 1), get_integer(dataset, "BitsAllocated", 16)
    interpretation = get_text(dataset, "PhotometricInterpretation")
    known = (*PHOTOMETRIC_INTERPRETATIONS, *OTHER_INTERPRETATIONS)
    shown = interpretation if get_close_matches(interpretation, known, cutoff=0.8) else "invalid"  # slips only
    for is_supported, name, found, expected in (
        (samples in (1, 3), "SamplesPerPixel", samples, "1 or 3"),
        (bits in BITS_ALLOCATED or "PixelData" not in dataset, "BitsAllocated", bits, "8, 16 or 32"),
        (
            interpretation in PHOTOMETRIC_INTERPRETATIONS or "PixelData" not in dataset,
            "PhotometricInterpretation", shown, "MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB or YBR",
        ),
    ):  # fmt: skip
        if not is_supported:
            raise UnsupportedFileError(
                f"The DICOM attribute {name} is {found}, which is not supported; expected {expected}. Export the film "
                "again.",
                code="pixel_format",
            )


def _wrong_size() -> UnreadableFileError:
    return UnreadableFileError(
        "The pixel data do not have the size that the DICOM header declares; use another copy of the file.",
        code="damaged",
    )


def _encapsulated_size(dataset: Dataset) -> tuple[int, int] | None:
    """(rows, columns) declared by the compressed stream, or None when it declares none."""
    try:
        return declared_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
    except MemoryError:
        raise
    except Exception:  # broken encapsulation is left to the codecs
        return None


def declared_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) declared by a JPEG, JPEG-LS or JPEG 2000 stream, or None when it declares none."""
    try:
        if stream.startswith(JPEG_START):
            return _jpeg_size(stream)
        start = stream.find(CODESTREAM_START, 0, MAX_JP2_BOX_BYTES)
        if start >= 0:
            right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
            return bottom - top, right - left
    except struct.error:  # truncated stream
        pass
    return None


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    position = len(JPEG_START)
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF or marker in STANDALONE_MARKERS:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">HH", stream, position + 5)
            return (rows, columns) if rows else None  # 0 rows: the number follows the scan (DNL marker)
        position += 2 + int(struct.unpack_from(">H", stream, position + 2)[0])
    return None


def _decode(dataset: Dataset, transfer_syntax: uid.UID) -> tuple[StoredArray, str] | None:
    """Values and photometric interpretation from the first codec that succeeds; None when all fail."""
    try:
        decoder = get_decoder(transfer_syntax)
    except NotImplementedError:
        raise UnsupportedFileError(
            f"The transfer syntax {transfer_syntax.name} is not supported; convert the file.", code="transfer_syntax"
        ) from None
    plugins: list[str] = [name for name in CODEC_ORDER if name in decoder.available_plugins]
    if transfer_syntax.is_encapsulated and not plugins:
        package = PACKAGES.get(transfer_syntax, "another codec for pydicom")
        raise UnsupportedFileError(
            f"No codec is installed for the transfer syntax {transfer_syntax.name}; install {package}.", code="codec"
        )
    for plugin in plugins or [""]:
        try:
            if plugin == "gdcm" and _is_extended_12_bit(dataset, transfer_syntax):
                return _decode_extended_12_bit(dataset), get_text(dataset, "PhotometricInterpretation")
            values, meta = decoder.as_array(dataset, index=0, decoding_plugin=plugin, **DECODER_OPTIONS)
            return values, str(meta["photometric_interpretation"])
        except MemoryError:
            raise
        except Exception:
            continue
    return None


def _is_extended_12_bit(dataset: Dataset, transfer_syntax: uid.UID) -> bool:
    return transfer_syntax == uid.JPEGExtended12Bit and get_integer(dataset, "BitsStored", 8) > 8


def _decode_extended_12_bit(dataset: Dataset) -> StoredArray:
    """(H, W) uint16 or int16 from a 12-bit JPEG; GDCM decodes it, although pydicom does not use GDCM for it."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(get_frame(dataset.PixelData, 0, number_of_frames=1))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    rows, columns, bits_stored = dataset.Rows, dataset.Columns, dataset.BitsStored
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits_stored, bits_stored - 1, dataset.PixelRepresentation))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM returns the bytes as text
    dtype = np.dtype(np.int16 if dataset.PixelRepresentation else np.uint16)
    return np.frombuffer(buffer, dtype).reshape(rows, columns)


def _apply_palette(values: StoredArray, dataset: Dataset) -> StoredArray:
    try:
        return np.asarray(apply_color_lut(values, dataset))[..., :3]
    except MemoryError:
        raise
    except Exception:
        raise UnreadableFileError(
            "The colour palette of the DICOM image is damaged; use another copy of the file.", code="damaged"
        ) from None
