"""Messages between kneegrade and its decoding process: a JSON head and raw bytes, each with its length before it.

Nothing that comes back is unpickled: the process has touched a file that nobody vouches for.
"""

import json
import struct
from typing import Any, BinaryIO

LENGTHS = struct.Struct("<QQ")


def send(stream: BinaryIO, head: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message and flush it."""
    text = json.dumps(head).encode("utf-8")
    stream.write(LENGTHS.pack(len(text), len(body)))
    stream.write(text)
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytearray]:
    """The next message as (head, body).

    Raises:
        EOFError: the other side has gone, between messages or within one.
    """
    text_length, body_length = LENGTHS.unpack(read_exactly(stream, LENGTHS.size))
    head: dict[str, Any] = json.loads(bytes(read_exactly(stream, text_length)))
    return head, read_exactly(stream, body_length)


def read_exactly(stream: BinaryIO, length: int) -> bytearray:
    """Exactly `length` bytes of the stream.

    Raises:
        EOFError: the stream ends before.
    """
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return buffer
