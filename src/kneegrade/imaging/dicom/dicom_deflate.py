"""`inflated`: a DICOM file in the deflated transfer syntax (PS3.5, A.5) as an uncompressed one, within limits.

pydicom inflates such a file without a limit, so that a file of one megabyte can take a gigabyte of memory.

This module runs in the decoding process.
"""

import zlib

from pydicom import uid

from kneegrade.errors import LimitExceededError, UnreadableFileError
from kneegrade.imaging.limits import MEBIBYTE, Limits

DEFLATED = str(uid.DeflatedExplicitVRLittleEndian)
WINDOWS = (-zlib.MAX_WBITS, zlib.MAX_WBITS)  # a plain stream, as the standard requires, or one with a zlib header
_UID = str(uid.ExplicitVRLittleEndian).encode() + b"\0"
START = bytes(128) + b"DICM\x02\0\x10\0UI" + len(_UID).to_bytes(2, "little") + _UID


def inflated(data: bytes, start: int, limits: Limits) -> bytes:
    """The file with its data set inflated, and with the transfer syntax Explicit VR Little Endian.

    Args:
        data: the file.
        start: position after the file meta group.
        limits: `file_bytes` and `zip_ratio` limit the result.

    Raises:
        LimitExceededError: the data set expands to more than allowed.
        UnreadableFileError: the compressed data are damaged or cut off.
    """
    compressed = data[start:]
    allowed = min(limits.file_bytes, max(MEBIBYTE, int(limits.zip_ratio * len(compressed))))
    for window in WINDOWS:
        stream = zlib.decompressobj(window)
        try:
            dataset = stream.decompress(compressed, allowed + 1)
        except zlib.error:
            continue
        if len(dataset) > allowed:
            raise LimitExceededError(
                f"The deflated DICOM file expands to more than the allowed {allowed} bytes.", code="deflated_size"
            )
        if not stream.eof:
            raise UnreadableFileError(
                "The DICOM file is cut off within its deflated data; use another copy of the file.", code="truncated"
            )
        return START + dataset
    raise UnreadableFileError("The deflated data of the DICOM file are damaged; use another copy.", code="damaged")
