"""`find_sources`: files, folders and zip archives → one `Source` per picture, in a stable order.

No name inside an archive is used as a path: members are read into memory, never unpacked to disk, and their names
are only shown, cleaned.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kneegrade.errors import (
    KneeGradeError,
    LimitExceededError,
    UnreadableFileError,
    UnsupportedFileError,
    UsageError,
)
from kneegrade.imaging.limits import MEBIBYTE, Limits

DEFAULT_LIMITS = Limits()
HARMLESS_SUFFIXES = frozenset(
    {
        ".txt",
        ".csv",
        ".tsv",
        ".parquet",
        ".json",
        ".html",
        ".htm",
        ".xml",
        ".md",
        ".yaml",
        ".yml",
        ".log",
        ".pts",
        ".ini",
        ".css",
        ".js",
    }
)
PICTURE_ENDINGS = frozenset({"dcm", "dicom", "png", "jpg", "jpeg", "tif", "tiff"})
SKIPPED_NAMES = frozenset({"DICOMDIR", "__MACOSX", "Thumbs.db", "desktop.ini"})
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
DICOM_MAGIC_END = 132
CHUNK = MEBIBYTE


@dataclass(frozen=True, eq=False)
class Source:
    """One thing to read.

    Attributes:
        name: how a report shows it: the file's name, or its place below the given folder or archive.
        path: where it lies on disk, None for a member of an archive.
        error: why it may not be read, or None.
        load: gives the bytes of a member, None for a file on disk.
    """

    name: str
    path: Path | None = None
    error: KneeGradeError | None = None
    load: Callable[[], bytes] | None = field(default=None, repr=False)

    def open(self) -> Path | bytes:
        """What `read_radiograph` reads.

        Raises:
            KneeGradeError: the source may not be read.
        """
        if self.error is not None:
            raise self.error
        if self.load is not None:
            return self.load()
        if self.path is None:
            raise UsageError("The source has neither a path nor bytes.", code="source")
        return self.path


def find_sources(inputs: Iterable[str | Path], limits: Limits = DEFAULT_LIMITS) -> Iterator[Source]:
    """The pictures in files, folders and zip archives, in the order given, folders sorted by name.

    Hidden files, DICOMDIR and what is plainly no picture (text, tables, web pages) are passed over within folders and
    archives; everything else becomes a source, if only to say why it cannot be read.

    Args:
        inputs: paths of files, folders or zip archives.
        limits: caps on archives and their members.

    Raises:
        UsageError: an input does not exist; raised before the first source comes out.
    """
    paths = [Path(item) for item in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{shown_name(str(path))} does not exist; check the path.", code="no_such_file")
    return _find(paths, limits)


def _find(paths: list[Path], limits: Limits) -> Iterator[Source]:
    for path in paths:
        if path.is_dir():
            yield from _in_folder(path, limits)
        else:
            yield from _in_file(path, shown_name(path.name), limits, is_folder_input=False)


def shown_name(name: str) -> str:
    r"""A name fit for a report: relative, with forward slashes, without steps upwards and control characters.

    Example:
        >>> shown_name("../../etc/passwd"), shown_name("C:\\films\\knee.dcm"), shown_name("a/./b")
        ('etc/passwd', 'C:/films/knee.dcm', 'a/b')
    """
    printable = "".join(letter if letter.isprintable() else "?" for letter in name.replace("\\", "/"))
    return "/".join(part for part in printable.split("/") if part not in ("", ".", "..")) or "?"


def stem_of(name: str) -> str:
    """A source's name without the ending of a picture; other dots, as in UIDs, stay.

    Example:
        >>> stem_of("a/film.DCM"), stem_of("1.2.840.3")
        ('a/film', '1.2.840.3')
    """
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.lower() in PICTURE_ENDINGS else name


def _in_folder(folder: Path, limits: Limits) -> Iterator[Source]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(name))
        for name in sorted(name for name in files if not _is_skipped(name)):
            path = Path(parent, name)
            yield from _in_file(path, shown_name(path.relative_to(folder).as_posix()), limits, is_folder_input=True)


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED_NAMES


def _in_file(path: Path, name: str, limits: Limits, *, is_folder_input: bool) -> Iterator[Source]:
    if not path.is_file():
        yield Source(name, error=UnsupportedFileError("This is not a regular file.", code="not_a_file"))
        return
    try:
        with path.open("rb") as stream:
            start = stream.read(DICOM_MAGIC_END)
    except OSError:
        yield Source(name, error=UnreadableFileError("The file cannot be opened.", code="cannot_open"))
        return
    if start.startswith(ZIP_MAGIC):
        prefix = f"{name}/" if is_folder_input else ""
        yield from _in_archive(path, name, prefix, limits)
    elif not (is_folder_input and _is_harmless(name, start)):
        yield Source(name, path)


def _is_harmless(name: str, start: bytes) -> bool:
    return PurePosixPath(name).suffix.lower() in HARMLESS_SUFFIXES and start[128:132] != b"DICM"


def _in_archive(path: Path, name: str, prefix: str, limits: Limits) -> Iterator[Source]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception:  # a directory that lies raises more than BadZipFile
        yield Source(name, error=UnreadableFileError("The zip archive is damaged or truncated.", code="damaged"))
        return
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > limits.zip_members:
        error = LimitExceededError(
            f"The zip archive holds more than the allowed {limits.zip_members} members.", code="zip_members"
        )
        yield Source(name, error=error)
        return
    for member in sorted(members, key=lambda member: member.filename):
        shown = shown_name(member.filename)
        if not any(_is_skipped(part) for part in shown.split("/")):
            yield from _member(archive, member, prefix + shown, limits)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, limits: Limits) -> Iterator[Source]:
    error = _member_problem(member, limits)
    if error is None:
        try:
            start = _unpack(archive, member, DICOM_MAGIC_END)
        except KneeGradeError as problem:
            error, start = problem, b""
        if start.startswith(ZIP_MAGIC):
            error = UnsupportedFileError("A zip archive within a zip archive is not read.", code="nested_zip")
        elif error is None and _is_harmless(name, start):
            return
    if error is not None:
        if not _is_harmless(name, b""):
            yield Source(name, error=error)
        return

    def load() -> bytes:
        return _unpack(archive, member, limits.zip_member_bytes)

    yield Source(name, load=load)


def _member_problem(member: zipfile.ZipInfo, limits: Limits) -> KneeGradeError | None:
    if member.flag_bits & 0x1:
        return UnsupportedFileError("The member is encrypted; unpack the archive first.", code="encrypted")
    if member.file_size > limits.zip_member_bytes:
        return LimitExceededError(
            f"The member is larger than the allowed {limits.zip_member_bytes} bytes.", code="zip_member_size"
        )
    if member.file_size > max(MEBIBYTE, limits.zip_ratio * member.compress_size):
        return LimitExceededError(
            f"The member unpacks to more than {limits.zip_ratio:g} times its size.", code="zip_ratio"
        )
    return None


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """The first `most` bytes of a member; its checksum is verified when that is all of it.

    Raises:
        UnreadableFileError: the member is damaged.
    """
    try:
        with archive.open(member) as stream:
            data = bytearray()
            while len(data) < most and (chunk := stream.read(min(CHUNK, most - len(data)))):
                data += chunk
            return bytes(data)
    except Exception:  # each of the four methods of compression has errors of its own
        raise UnreadableFileError("The member of the zip archive is damaged.", code="damaged") from None
