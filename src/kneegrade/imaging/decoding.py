"""Bytes → `Picture`: what the decoding process does with one file."""

import warnings

from kneegrade.errors import LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.dicom import is_dicom, read_dicom
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.picture import Picture
from kneegrade.imaging.plain import read_plain

PLAIN_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_FORMATS = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"RIFF": "a WebP picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture outside DICOM",
}


def decode(data: bytes, limits: Limits) -> Picture:
    """The picture in the bytes of a file.

    Raises:
        KneeGradeError: with a reason, for whatever cannot be read.
    """
    if len(data) > limits.file_bytes:
        raise LimitExceededError(f"The file is larger than the allowed {limits.file_bytes} bytes.", code="file_size")
    if not data:
        raise UnreadableFileError("The file is empty.", code="empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_dicom(data):
            return read_dicom(data, limits)
        if data.startswith(PLAIN_MAGIC):
            return read_plain(data, limits)
    for magic, name in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise UnsupportedFileError(f"The file is {name}; give DICOM, PNG, JPEG or TIFF.", code="format")
    raise UnreadableFileError("The file is not DICOM, PNG, JPEG or TIFF, whatever its name says.", code="format")
