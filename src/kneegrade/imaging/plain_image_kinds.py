"""Kinds of JPEG and TIFF files that are sound but not supported, named for the error message.

This module runs in the decoding process.
"""

import struct
from io import BytesIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kneegrade.imaging.dicom.dicom_codecs import FRAME_MARKERS

JPEG_START = b"\xff\xd8\xff"
JPEG_KINDS = {0xC3: "a lossless JPEG file", 0xF7: "a JPEG-LS file", 0xC9: "a JPEG file with arithmetic coding"}
SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers", 5: "complex integers"}
BITS_PER_SAMPLE, COMPRESSION, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 259, 277, 339  # TIFF tags


def unsupported_kind(data: bytes) -> str | None:
    """The kind of a file that Pillow cannot identify, or None when the file seems damaged.

    Example:
        >>> unsupported_kind(bytes.fromhex("ffd8fff7000b08001000100101110000"))
        'a JPEG-LS file'
    """
    try:
        return _jpeg_kind(data) if data.startswith(JPEG_START) else _tiff_kind(data)
    except MemoryError:
        raise
    except Exception:
        return None


def _jpeg_kind(data: bytes) -> str | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in FRAME_MARKERS:
            bits = data[position + 4]
            return JPEG_KINDS.get(marker) or (f"a JPEG file with {bits} bits per value" if bits != 8 else None)
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def _tiff_kind(data: bytes) -> str | None:
    """The sample type and compression that the first page of a TIFF file declares."""
    stream = BytesIO(data)
    tags = ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
    if not 8 <= tags.next < len(data):
        return None
    stream.seek(tags.next)
    tags.load(stream)
    bits, sample_format = tags.get(BITS_PER_SAMPLE), tags.get(SAMPLE_FORMAT, (1,))
    if not bits:
        return None
    samples = SAMPLE_FORMATS.get(int(sample_format[0]), "values of an unknown type")
    return (
        f"a TIFF file with {int(tags.get(SAMPLES_PER_PIXEL, 1))} x {int(bits[0])}-bit {samples} per pixel "
        f"(compression {int(tags.get(COMPRESSION, 1))})"
    )
