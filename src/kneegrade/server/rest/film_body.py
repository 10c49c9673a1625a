"""`receive_film`: the body of a request → a file in the spool, streamed, counted and timed."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from kneegrade.server.rest.problem import Refusal
from kneegrade.server.spool.film_spool import Accepted, FilmKind, Spool, SpoolFullError
from kneegrade.server.spool.spool_schema import index_error

MEDIA_TYPES: Final[dict[str, FilmKind | None]] = {
    "application/dicom": "dicom",
    "application/octet-stream": None,  # the beginning of the film decides
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/tiff": "tiff",
}
MAX_WAIT_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 30.0  # without a byte of the body
_WRITE_BYTES: Final = 1 << 20
_LOOK_BYTES: Final = 16 << 20  # between two looks at the free space of the disk
_WAIT: Final = re.compile(r'wait\s*=\s*"?(\d{1,9})"?', re.IGNORECASE)


def check_headers(request: Request, max_bytes: int, media_types: tuple[str, ...] = tuple(MEDIA_TYPES)) -> str:
    """The media type of the body, in lower case, after the headers were checked.

    Raises:
        Refusal: 415 for another type or an encoded body, 413 for a length above `max_bytes`, 411 without a body.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise Refusal(415, f"The Content-Type is not one of {', '.join(media_types)}; send the bytes with one of them.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "The body has a Content-Encoding; send it without one.")
    length = request.headers.get("content-length")
    if length is None and "chunked" not in request.headers.get("transfer-encoding", "").lower():
        raise Refusal(411)
    if length is not None and int(length) > max_bytes:
        raise too_large(max_bytes)
    return media_type


def too_large(max_bytes: int) -> Refusal:
    """The refusal of a body."""
    return Refusal(413, f"The body has more than {max_bytes} bytes; send a smaller film, or raise the limit.")


async def body_chunks(request: Request, *, max_bytes: int, seconds: float) -> AsyncIterator[bytes]:
    """The body in pieces.

    Raises:
        Refusal: 413 above `max_bytes`, 408 if it takes longer than `seconds` or pauses for `IDLE_SECONDS`.
    """
    total, loop = 0, asyncio.get_running_loop()
    end = loop.time() + seconds
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout_at(min(end, loop.time() + IDLE_SECONDS)):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            total += len(chunk)
            if total > max_bytes:
                raise too_large(max_bytes)
            if chunk:
                yield chunk
    except TimeoutError:
        raise Refusal(408, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(408, "The connection ended before the body.") from None


class SpoolFile:
    """A temporary file of the spool that is written in large pieces, in a thread; removed unless it is accepted.

    Attributes:
        path: of the file.
        size: bytes so far.
        start: the first bytes.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stream: BinaryIO | None = None
        self._waiting, self._unseen = bytearray(), 0
        self.path, self.size, self.start = Path(), 0, b""

    async def __aenter__(self) -> "SpoolFile":
        try:
            self._stream, self.path = await asyncio.to_thread(self._spool.temporary_file)
        except OSError as error:
            raise index_error(error) from error
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    async def write(self, chunk: bytes | bytearray) -> None:
        """Append bytes.

        Raises:
            SpoolError: the disk is full or cannot be written.
        """
        self.size += len(chunk)
        if len(self.start) < 256:
            self.start += bytes(chunk[:256])
        self._waiting += chunk
        if len(self._waiting) >= _WRITE_BYTES:
            await self._flush()

    async def accept(self, kind: FilmKind, sop_instance_uid: str | None, sender: str) -> Accepted:
        """The film as the spool has taken it over.

        Raises:
            SpoolError: the spool cannot take it.
        """
        await self.close()
        return await asyncio.to_thread(
            self._spool.accept, self.path, kind=kind, sop_instance_uid=sop_instance_uid, sender=sender
        )

    async def close(self) -> None:
        """Write what is left and close the file."""
        await self._flush()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await _on_disk(stream.close)

    async def _flush(self) -> None:
        if self._stream is not None and self._waiting:
            waiting, self._waiting = self._waiting, bytearray()
            self._unseen += len(waiting)
            if self._unseen >= _LOOK_BYTES:
                self._unseen = 0
                if await asyncio.to_thread(self._spool.is_full):
                    raise SpoolFullError("The disk of the spool is full; free space.")
            await _on_disk(self._stream.write, waiting)


async def _on_disk(write: object, *arguments: object) -> None:
    try:
        await asyncio.to_thread(write, *arguments)  # type: ignore[arg-type]
    except OSError as error:
        raise index_error(error) from error


def kind_of(media_type: str, start: bytes) -> FilmKind:
    """The kind of a film.

    Args:
        media_type: of `MEDIA_TYPES`.
        start: the first 256 bytes of the film.

    Raises:
        Refusal: 415 if the film is not of the stated type.
    """
    found = _kind_of_bytes(start)
    stated = MEDIA_TYPES[media_type]
    if stated is None and found is None:
        raise Refusal(415, "The body is no DICOM, PNG, JPEG or TIFF file; send one of these.")
    if stated is not None and stated != found and not (stated == "dicom" and found is None):  # DICOM without a preamble
        raise Refusal(415, f"The body is not what its Content-Type states ({media_type}); send the right one.")
    return stated or found or "dicom"


def _kind_of_bytes(start: bytes) -> FilmKind | None:
    if start[128:132] == b"DICM":
        return "dicom"
    magic: tuple[tuple[bytes, FilmKind], ...] = (
        (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"),
    )  # fmt: skip
    return next((kind for beginning, kind in magic if start.startswith(beginning)), None)


def wait_seconds(prefer: list[str]) -> float:
    """The seconds of `Prefer: wait=N` (RFC 7240), at most 60; 0 without it. What is malformed is ignored, as it says.

    Example:
        >>> wait_seconds(["respond-async, wait=10"]), wait_seconds(["wait=-1", "wait=x"])
        (10.0, 0.0)
    """
    for part in ",".join(prefer).split(","):
        if match := _WAIT.fullmatch(part.partition(";")[0].strip()):
            return min(MAX_WAIT_SECONDS, float(match[1]))
    return 0.0
