"""Messages between kneegrade and its decoding process: a JSON head and raw bytes, each with its length before it.

Nothing that comes back is unpickled: the process has touched a file that nobody vouches for.
"""

import json
import struct
import sys
from typing import Any, BinaryIO

LENGTHS = struct.Struct("<QQ")


def send(stream: BinaryIO, head: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message and flush it."""
    text = json.dumps(head).encode("utf-8")
    for part in (LENGTHS.pack(len(text), len(body)) + text, body):
        rest = memoryview(part)
        while rest:  # a raw pipe may take less than it is given
            rest = rest[stream.write(rest) :]
    stream.flush()


def receive(stream: BinaryIO, most: int = sys.maxsize) -> tuple[dict[str, Any], bytearray]:
    """The next message as (head, body).

    Args:
        stream: where it comes from.
        most: bytes that head and body may have; nothing is allocated for more.

    Raises:
        EOFError: the other side has gone, between messages or within one.
        ValueError: the message is longer than allowed, or its head is no JSON.
    """
    text_length, body_length = LENGTHS.unpack(read_exactly(stream, LENGTHS.size))
    if text_length + body_length > most:
        raise ValueError
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
