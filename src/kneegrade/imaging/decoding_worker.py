"""The decoding process: reads requests from its standard input, answers on its standard output, ends with the input.

Started by `kneegrade.imaging.decoding_process`; nothing else should call it.

Bytes → `Picture`: what the decoding process does with one file.
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
from kneegrade.imaging.decoding_process import receive, send
from kneegrade.imaging.dicom import is_dicom, read_dicom
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.plain_images import read_plain
from kneegrade.imaging.radiograph import Picture

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


def main(memory_bytes: int) -> None:
    """Serve until the input ends, within `memory_bytes` of address space."""
    limit_memory(memory_bytes)
    logging.disable(logging.CRITICAL)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # a codec that prints must not print into an answer
        serve(sys.stdin.buffer, answers)


def limit_memory(memory_bytes: int) -> None:
    """Cap the address space of this process where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        capped = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (capped, hard))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Say "ready", then answer each request until there are no more."""
    send(answers, {"ready": True})
    while True:
        try:
            head, body = receive(requests)
        except EOFError:
            return
        send(answers, *answer(head, body))


def answer(head: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes | memoryview]:
    """The answer to one request: the picture, or the name, code and message of a `KneeGradeError`."""
    try:
        limits = Limits(**head["limits"])
        data = bytes(body) if head["path"] is None else read_file(Path(head["path"]), limits)
        picture = decode(data, limits)
        return picture.head(), np.ascontiguousarray(picture.pixels).data.cast("B")
    except KneeGradeError as error:
        return _reason(error), b""
    except MemoryError:
        return _reason(LimitExceededError("The file asks for more memory than allowed.", code="memory")), b""
    except Exception:
        return _reason(UnreadableFileError("The file could not be read.", code="damaged")), b""


def read_file(path: Path, limits: Limits) -> bytes:
    """The bytes of a file, at most one more than allowed.

    Raises:
        UnreadableFileError: it cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(limits.file_bytes + 1)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UnreadableFileError(f"The file cannot be opened ({reason}).", code="cannot_open") from None


def _reason(error: KneeGradeError) -> dict[str, Any]:
    return {"error": type(error).__name__, "code": error.code, "message": error.message}
