"""The size a compressed stream declares for itself, asked before any codec sees it.

A codec allocates what the stream says, not what the DICOM header says, and pydicom reshapes whatever comes out as
long as the number of pixels agrees: 160 x 150 decoded as 150 x 160 is a garbled film without an error.
"""

import struct

JPEG_START = b"\xff\xd8"
CODESTREAM_START = b"\xff\x4f\xff\x51"
FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF of JPEG and of JPEG-LS
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
JP2_BOXES = 65536  # where the codestream must begin when it is wrapped in boxes


def declared_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream, None where none is stated."""
    try:
        if stream.startswith(JPEG_START):
            return _jpeg_size(stream)
        start = stream.find(CODESTREAM_START, 0, JP2_BOXES)
        if start >= 0:
            right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
            return bottom - top, right - left
    except struct.error:  # cut off
        pass
    return None


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    at = len(JPEG_START)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in STANDALONE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">HH", stream, at + 5)
            return (rows, columns) if rows else None  # 0: stated after the scan
        at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    return None
