"""The program of the decoding process: it answers requests on standard input with images on standard output.

`decode` selects the reader by the first bytes of a file. The process ends when its standard input ends. It is started
by `kneegrade.imaging.decoding_process` only.
"""

import contextlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import cpu_limit
from kneegrade.imaging.cpu_limit import begin_cpu_limit, end_cpu_limit
from kneegrade.imaging.decoding_process import receive, send
from kneegrade.imaging.dicom.dicom_elements import read_elements
from kneegrade.imaging.dicom.dicom_file import is_dicom, read_dicom
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.plain_images import read_plain_image
from kneegrade.imaging.radiograph import DecodedImage

PLAIN_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_FORMATS = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"RIFF": "a WebP image",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image outside DICOM",
}


def main(memory_bytes: int) -> None:
    """Answer requests until the input ends, with an address space of at most `memory_bytes`."""
    limit_memory(memory_bytes)
    logging.disable(logging.CRITICAL)
    with os.fdopen(os.dup(1), "wb") as answers:
        cpu_limit.enable()
        os.dup2(2, 1)  # output printed by codecs must not be mixed with the answers
        serve(sys.stdin.buffer, answers)


def limit_memory(memory_bytes: int) -> None:
    """Limit the address space of this process, on systems that support it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Send the ready message, then answer each request until the input ends."""
    send(answers, {"ready": True})
    while True:
        try:
            header, payload = receive(requests)
        except EOFError:
            return
        begin_cpu_limit()
        message = answer(header, payload)
        end_cpu_limit()
        send(answers, *message)


def answer(header: dict[str, Any], payload: bytearray) -> tuple[dict[str, Any], bytes | memoryview]:
    """The answer to one request: metadata and pixels, or class name, code and message of a `KneeGradeError`.

    A request for `elements` is answered with the elements of the file as JSON text instead.
    """
    try:
        limits = Limits(**header["limits"])
        data = bytes(payload) if header["path"] is None else read_file(Path(header["path"]), limits)
        if "elements" in header:
            return {}, elements_in(data, header["elements"], limits)
        image = decode(data, limits)
        return image.metadata(), np.ascontiguousarray(image.pixels).data.cast("B")
    except KneeGradeError as error:
        return _error_header(error), b""
    except MemoryError:
        return _error_header(LimitExceededError("The file needs more memory than allowed.", code="memory")), b""
    except Exception:
        return _error_header(
            UnreadableFileError("The file could not be read; use another copy of the file.", code="damaged")
        ), b""


def read_file(path: Path, limits: Limits) -> bytes:
    """The bytes of a file, at most one more than allowed.

    Raises:
        UnreadableFileError: the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(limits.file_bytes + 1)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UnreadableFileError(f"The file cannot be opened ({reason}).", code="cannot_open") from None


def elements_in(data: bytes, kind: str, limits: Limits) -> bytes:
    """Elements of a DICOM file as JSON text (`dicom_elements.read_elements`)."""
    check_size(data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_elements(data, kind, limits)


def check_size(data: bytes, limits: Limits) -> None:
    """Raise an error when a file is empty or too large.

    Raises:
        LimitExceededError: the file is larger than allowed.
        UnreadableFileError: the file is empty.
    """
    if len(data) > limits.file_bytes:
        raise LimitExceededError(f"The file is larger than the allowed {limits.file_bytes} bytes.", code="file_size")
    if not data:
        raise UnreadableFileError("The file is empty; use another copy of the file.", code="empty")


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """The image in the bytes of a file.

    Raises:
        KneeGradeError: the file cannot be decoded; the message gives the reason.
    """
    check_size(data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_dicom(data):
            return read_dicom(data, limits)
        if data.startswith(PLAIN_MAGIC):
            return read_plain_image(data, limits)
    for magic, name in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise UnsupportedFileError(f"The file is {name}; use DICOM, PNG, JPEG or TIFF.", code="format")
    raise UnreadableFileError("The content of the file is not DICOM, PNG, JPEG or TIFF.", code="format")


def _error_header(error: KneeGradeError) -> dict[str, Any]:
    return {"error": type(error).__name__, "code": error.code, "message": error.message}
