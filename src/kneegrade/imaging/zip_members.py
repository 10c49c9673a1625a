"""Members of zip archives, read within limits; no path from an archive is ever used to write."""

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging.limits import MEBIBYTE, Limits

CHUNK_BYTES = MEBIBYTE
DIRECTORY_BYTES_PER_MEMBER = 512  # a usual entry of the directory has 100


@dataclass(frozen=True)
class ZipMember:
    """The bytes of a member of a zip archive, as `Source.load`.

    Attributes:
        path: of the archive.
        index: of the member in the archive's directory; names need not be unique.
        max_bytes: bytes beyond these are not read.
    """

    path: Path
    index: int
    max_bytes: int

    def __call__(self) -> bytes:
        """The bytes of the member.

        Raises:
            UnreadableFileError: the member is damaged, or the archive has changed or was removed.
        """
        try:
            status = self.path.stat()
            archive = _open_archive(self.path, status.st_mtime_ns, status.st_size)
            member = archive.infolist()[self.index]
        except Exception:  # a malformed central directory raises other exceptions than BadZipFile
            message = "The zip archive cannot be opened or has changed; check that it is still there, and try again."
            raise UnreadableFileError(message, code="cannot_open") from None
        return read_member(archive, member, self.max_bytes)


@lru_cache(maxsize=4)
def _open_archive(path: Path, changed_ns: int, size: int) -> zipfile.ZipFile:
    """The archive, which stays open for its next members."""
    return zipfile.ZipFile(path)


class ArchiveFile(FileIO):
    """A zip archive opened for reading, of which no large piece is read at once: its directory is limited.

    `zipfile` reads the whole directory and makes an object of each entry before the number of entries can be checked.

    Args:
        path: of the archive.
        limits: `zip_members` limits the size of the directory.

    Raises:
        LimitExceededError: by `read`: the directory is too large.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._largest = max(2 * MEBIBYTE, DIRECTORY_BYTES_PER_MEMBER * limits.zip_members)

    def read(self, size: int | None = -1) -> bytes:
        """As `FileIO.read`."""
        if size is None or size < 0:  # the rest of the file
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > self._largest:
            raise LimitExceededError(
                "The directory of the zip archive is too large for the allowed number of members.", code="zip_members"
            )
        return super().read(size) or b""


def member_error(member: zipfile.ZipInfo, limits: Limits) -> KneeGradeError | None:
    """The reason to reject a member by its entry in the archive's directory, or None."""
    if member.flag_bits & 0x1:
        return UnsupportedFileError("The zip member is encrypted; extract the archive first.", code="encrypted")
    if member.file_size > limits.zip_member_bytes:
        return LimitExceededError(
            f"The zip member is larger than the allowed {limits.zip_member_bytes} bytes.", code="zip_member_size"
        )
    if member.file_size > max(MEBIBYTE, limits.zip_ratio * member.compress_size):
        return LimitExceededError(
            f"The zip member expands to more than {limits.zip_ratio:g} times its compressed size.", code="zip_ratio"
        )
    return None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """The first `max_bytes` bytes of a member; the checksum is verified when the member ends within them.

    Raises:
        UnreadableFileError: the member is damaged.
    """
    try:
        with archive.open(member) as stream:
            data = BytesIO()  # gives its bytes away without a copy
            while data.tell() < max_bytes and (chunk := stream.read(min(CHUNK_BYTES, max_bytes - data.tell()))):
                data.write(chunk)
            return data.getvalue()
    except Exception:  # each of the four compression methods raises its own exceptions
        raise UnreadableFileError("The member of the zip archive is damaged.", code="damaged") from None
