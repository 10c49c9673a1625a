"""`is_own_object`: whether a received file is a picture of results that kneegrade made, so that no loop arises.

Only the first bytes are searched for two elements; the file is not parsed, because it comes from the network. The
worker that grades a film examines it again in the decoding process.
"""

import re
import zlib
from pathlib import Path
from typing import Final

from kneegrade.clinical.job import MODEL

HEAD_BYTES: Final = 256 * 1024  # the elements lie at the beginning of a data set
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_PREAMBLE_BYTES: Final = 132
_NAME: Final = MODEL.encode() + (b" " if len(MODEL) % 2 else b"")
_LENGTH: Final = len(_NAME)
_MODEL: Final = re.compile(  # (0008,1090) Manufacturer's Model Name: explicit and implicit VR, big endian
    b"|".join(
        re.escape(tag + length + _NAME)
        for tag, length in (
            (b"\x08\x00\x90\x10LO", _LENGTH.to_bytes(2, "little")),
            (b"\x08\x00\x90\x10", _LENGTH.to_bytes(4, "little")),
            (b"\x00\x08\x10\x90LO", _LENGTH.to_bytes(2, "big")),
        )
    )
)
_SOURCE_IMAGES: Final = (b"\x08\x00\x12\x21", b"\x00\x08\x21\x12")  # (0008,2112) Source Image Sequence


def is_own_object(path: Path, transfer_syntax: str) -> bool:
    """True if the file names kneegrade as its model and names a source image.

    Args:
        path: of a DICOM file with a file meta group.
        transfer_syntax: of its data set.
    """
    with path.open("rb") as stream:
        start = stream.read(_PREAMBLE_BYTES + 12)
        group_length = int.from_bytes(start[-4:], "little") if len(start) == _PREAMBLE_BYTES + 12 else 0
        stream.seek(min(group_length, HEAD_BYTES), 1)
        head = stream.read(HEAD_BYTES)
    if transfer_syntax == DEFLATED:
        head = _inflated(head)
    return bool(_MODEL.search(head)) and any(tag in head for tag in _SOURCE_IMAGES)


def _inflated(head: bytes) -> bytes:
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        try:
            return zlib.decompressobj(window).decompress(head, HEAD_BYTES)
        except zlib.error:
            continue
    return b""
