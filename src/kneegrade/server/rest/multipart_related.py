"""`MultipartParts`: the parts of a multipart/related body (RFC 2387) while it arrives, in constant memory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Final

MAX_HEADER_BYTES: Final = 8 * 1024  # of a part, and of what stands before the first boundary
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class MultipartError(ValueError):
    """The body is not valid multipart/related."""


@dataclass(frozen=True)
class PartStart:
    """The beginning of a part.

    Attributes:
        media_type: of the part, in lower case; "" if it states none.
    """

    media_type: str


@dataclass(frozen=True)
class PartData:
    """Bytes of the part that began last."""

    content: bytes = field(repr=False)


@dataclass(frozen=True)
class PartEnd:
    """The part that began last is complete."""


def related_boundary(content_type: str) -> tuple[str, str]:
    """The boundary of a multipart/related Content-Type, and its parameter `type` in lower case ("" without it).

    Raises:
        MultipartError: it is another type, or has no valid boundary.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary", "")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise MultipartError("expected multipart/related")
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("the boundary is missing or malformed")
    kind = message.get_param("type", "")
    return boundary, kind.lower() if isinstance(kind, str) else ""


class MultipartParts:
    """Splits a body that arrives in pieces of any size.

    Args:
        boundary: from the Content-Type.

    Attributes:
        is_finished: whether the closing boundary has arrived.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
        self._state = "preamble"
        self.is_finished = False

    def feed(self, chunk: bytes) -> Iterator[PartStart | PartData | PartEnd]:
        """What the next bytes of the body add.

        Raises:
            MultipartError: the body is malformed.
        """
        self._buffer += chunk
        while not self.is_finished:
            before = (self._state, len(self._buffer))
            if self._state == "header":
                yield from self._header()
            elif self._state == "boundary":
                self._after_boundary()
            else:
                yield from self._until_boundary()
            if (self._state, len(self._buffer)) == before:
                return
        self._buffer.clear()  # the epilogue has no meaning

    def close(self) -> None:
        """Check that the body was complete.

        Raises:
            MultipartError: the closing boundary is missing.
        """
        if not self.is_finished:
            raise MultipartError("the closing boundary is missing")

    def _until_boundary(self) -> Iterator[PartData | PartEnd]:
        """The bytes before the next boundary. The last ones are kept back, as they may begin it."""
        place = self._buffer.find(self._delimiter)
        end = place if place >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        content = bytes(self._buffer[:end])
        del self._buffer[:end]
        if self._state == "preamble":
            if end > MAX_HEADER_BYTES:
                raise MultipartError("there is no boundary at the beginning")
        elif content:
            yield PartData(content)
        if place >= 0:
            if self._state == "part":
                yield PartEnd()
            del self._buffer[: len(self._delimiter)]
            self._state = "boundary"

    def _after_boundary(self) -> None:
        """Decide whether a part or the end follows a boundary."""
        if self._buffer[:2] == b"--":
            self.is_finished = True
            return
        line, ending, _ = self._buffer.partition(b"\r\n")
        if not ending:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise MultipartError("a boundary is malformed")
            return
        if line.strip(b" \t"):
            raise MultipartError("a boundary is malformed")
        del self._buffer[: len(line)]  # the line break stays: a part without headers has an empty line at once
        self._state = "header"

    def _header(self) -> Iterator[PartStart]:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEADER_BYTES or (end < 0 and len(self._buffer) > MAX_HEADER_BYTES):
            raise MultipartError("the headers of a part are too long")
        if end < 0:
            return
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._state = "part"
        media_type = ""
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                media_type = value.partition(";")[0].strip().lower()
        yield PartStart(media_type)
