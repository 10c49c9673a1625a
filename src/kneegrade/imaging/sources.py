"""`find_sources`: the images in files, folders and zip archives, one `Source` each, in a reproducible order.

Names inside an archive are never used as paths: members are read into memory and are not extracted to disk. Names are
only displayed, after `shown_name` removed unsafe parts.
"""

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from kneegrade.errors import (
    KneeGradeError,
    LimitExceededError,
    UnreadableFileError,
    UnsupportedFileError,
    UsageError,
)
from kneegrade.files import is_shell_pipe, short_name
from kneegrade.imaging.folder_files import files_below
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.other_files import HEAD_BYTES, is_passed_over, kind_of_other_file
from kneegrade.imaging.own_pictures import is_own_picture
from kneegrade.imaging.zip_members import ArchiveFile, ZipMember, member_error, read_member
from kneegrade.imaging.zip_names import member_names

DEFAULT_LIMITS = Limits()
IMAGE_EXTENSIONS = frozenset({"dcm", "dicom", "png", "jpg", "jpeg", "tif", "tiff"})
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """One image to read: a file on disk or a member of a zip archive. Can be pickled, unless `load` cannot.

    Attributes:
        name: name for reports: the path relative to the given folder or archive or, of several inputs, to the nearest
            folder that contains them all.
        path: path on disk; None for a member of an archive.
        error: the reason why the source cannot be read, or None.
        load: function that returns the bytes, for example a `ZipMember`; None for a file on disk.
    """

    name: str
    path: Path | None = None
    error: KneeGradeError | None = None
    load: Callable[[], bytes] | None = field(default=None, repr=False)

    def open(self) -> Path | bytes:
        """The path of the file or the bytes of the member, as input of `read_radiograph`.

        Raises:
            KneeGradeError: the source cannot be read.
        """
        if self.error is not None:
            raise self.error
        if self.load is not None:
            return self.load()
        if self.path is None:
            raise UsageError("The source has neither a path nor bytes; set `path` or `load`.", code="source")
        return self.path


def sha256_of(content: Path | bytes) -> str | None:
    """The SHA-256 of a file or of bytes in hexadecimal digits; None if it cannot be read or exceeds the size limit."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    try:
        if not content.is_file() or content.stat().st_size > DEFAULT_LIMITS.file_bytes:
            return None
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def find_sources(
    inputs: Iterable[str | Path], limits: Limits = DEFAULT_LIMITS, other_files: Counter[str] | None = None
) -> Iterator[Source]:
    """The images in files, folders and zip archives, in the given order; folders and archives are sorted by name.

    Within folders and archives, hidden files and the pictures that kneegrade writes are skipped, and files that are not
    films (`kneegrade.imaging.other_files`: programs, documents, DICOM objects without a film) are left out. Every other
    file becomes a source, with an error if it cannot be read, like a folder that cannot be read. Symbolic links to
    folders are followed; each folder is read once. A file that several inputs contain is one source, of the first of
    them. The names of the sources of several inputs begin at the nearest folder that contains these inputs, so that
    films of one name from two folders differ.

    Args:
        inputs: paths of files, folders or zip archives.
        limits: limits for archives and their members.
        other_files: the number of files that were left out is added, by kind.

    Raises:
        UsageError: an input is empty, does not exist or is a pipe of a shell. It is raised by this call, before the
            first source is produced.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if "" in given:
        raise UsageError("A path is empty; give a file or a folder, '.' for the current folder.", code="empty_path")
    paths = [Path(item) for item in given]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{shown_name(str(path))} does not exist; check the path.", code="no_such_file")
        if is_shell_pipe(path):
            raise UsageError(
                f"{path} is a pipe, not a film; give files, folders or zip files. `kneegrade batch` reads a table with "
                "the paths of films from a pipe.",
                code="not_a_file",
            )
    return _iterate(paths, limits, Counter() if other_files is None else other_files)


def _iterate(paths: list[Path], limits: Limits, others: Counter[str]) -> Iterator[Source]:
    seen: set[str] | None = set() if len(paths) > 1 else None  # one input contains each file once
    for path, name in zip(paths, _input_names(paths), strict=True):
        prefix = f"{name}/" if len(paths) > 1 else ""
        if path.is_dir():
            yield from _in_folder(path, prefix, limits, others, seen)
        elif _is_new(path, seen):
            yield from _in_file(path, name, prefix, limits, others, is_folder_input=False)


def _is_new(path: Path, seen: set[str] | None) -> bool:
    """Whether a file was not seen before; it is added to `seen`. A symbolic link and its target are two files."""
    if seen is None:
        return True
    place = os.path.join(os.path.realpath(path.parent), path.name)
    is_new = place not in seen
    seen.add(place)
    return is_new


def _input_names(paths: list[Path]) -> list[str]:
    """For each input its name or, if there are several, its path from the nearest folder that contains them all."""
    if len(paths) == 1:
        return [shown_name(paths[0].name)]
    absolute = [os.path.abspath(path) for path in paths]
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    except ValueError:  # the inputs are on several drives
        return [shown_name(path) for path in absolute]
    return [shown_name(os.path.relpath(path, common)) for path in absolute]


def shown_name(name: str) -> str:
    r"""A name that is safe to display: relative, with forward slashes, without ".." and control characters.

    Example:
        >>> shown_name("../../etc/passwd"), shown_name("C:\\films\\knee.dcm"), shown_name("a/./b")
        ('etc/passwd', 'C:/films/knee.dcm', 'a/b')
    """
    printable = "".join(letter if letter.isprintable() else "?" for letter in name.replace("\\", "/"))
    return "/".join(part for part in printable.split("/") if part not in ("", ".", "..")) or "?"


def stem_of(name: str) -> str:
    """The name of a source without its image extension; other dots, as in UIDs, are kept.

    Example:
        >>> stem_of("a/film.DCM"), stem_of("1.2.840.3")
        ('a/film', '1.2.840.3')
    """
    stem, dot, extension = name.rpartition(".")
    return stem if dot and extension.lower() in IMAGE_EXTENSIONS else name


def unique_stem(name: str, taken: set[str], ending_bytes: int) -> str:
    """The name for the files of a source, without ending; differs from those in `taken`, to which it is added.

    Args:
        name: of the source.
        taken: names that other sources have.
        ending_bytes: length of the longest ending that is added to it.

    Example:
        >>> taken = set()
        >>> [unique_stem(name, taken, 4) for name in ("film.dcm", "film.png", "film.png")]
        ['film', 'film.png', 'film.png-2']
    """
    names = chain((stem_of(name), name), (f"{name}-{i}" for i in count(2)))
    short = (short_name(candidate, ending_bytes) for candidate in names)
    stem = next(candidate for candidate in short if candidate not in taken)
    taken.add(stem)
    return stem


def _in_folder(
    folder: Path, prefix: str, limits: Limits, others: Counter[str], seen: set[str] | None
) -> Iterator[Source]:
    for path, is_readable in files_below(folder, is_passed_over):
        if not _is_new(path, seen):
            continue
        shown = prefix + shown_name(path.relative_to(folder).as_posix())
        if is_readable:
            yield from _in_file(path, shown, f"{shown}/", limits, others, is_folder_input=True)
        else:
            name = shown_name(path.name) if path == folder and not prefix else shown.removesuffix("/?")
            message = "The folder cannot be read; check its permissions. Its films are missing in the results."
            yield Source(name, error=UnreadableFileError(message, code="cannot_open"))


def _in_file(
    path: Path, name: str, prefix: str, limits: Limits, others: Counter[str], *, is_folder_input: bool
) -> Iterator[Source]:
    try:
        if path.is_symlink() and not path.exists():
            yield Source(name, error=UnreadableFileError("The link points to no file.", code="cannot_open"))
            return
        if not path.is_file():
            yield Source(name, error=UnsupportedFileError("This is not a regular file.", code="not_a_file"))
            return
        with path.open("rb") as stream:
            start = stream.read(HEAD_BYTES)
    except OSError:
        yield Source(name, error=UnreadableFileError("The file cannot be opened.", code="cannot_open"))
        return
    kind = kind_of_other_file(name, start) if is_folder_input else None
    if kind is not None:
        others[kind] += 1
    elif start.startswith(ZIP_MAGIC):
        yield from _in_archive(path, name, prefix, limits, others)
    elif is_own_picture(start) and not is_folder_input:
        message = "This file holds results of kneegrade and is not a film; give the film that it was made from."
        yield Source(name, path, UnsupportedFileError(message, code="own_picture"))
    elif not is_own_picture(start):
        yield Source(name, path)


def _in_archive(path: Path, name: str, prefix: str, limits: Limits, others: Counter[str]) -> Iterator[Source]:
    try:
        with ArchiveFile(path, limits) as stream, zipfile.ZipFile(stream) as archive:
            yield from _members(archive, path, prefix, limits, others)
        return
    except KneeGradeError as found:
        error = found
    except UnicodeDecodeError:
        message = "A name in the zip archive is declared as UTF-8 and is not; extract the archive with another program."
        error = UnreadableFileError(message, code="zip_names")
    except Exception:  # a malformed central directory raises other exceptions than BadZipFile
        error = UnreadableFileError("The zip archive is damaged or truncated.", code="damaged")
    yield Source(name, error=error)


def _members(
    archive: zipfile.ZipFile, path: Path, prefix: str, limits: Limits, others: Counter[str]
) -> Iterator[Source]:
    members = [(i, member) for i, member in enumerate(archive.infolist()) if not member.is_dir()]
    if len(members) > limits.zip_members:
        raise LimitExceededError(
            f"The zip archive has {len(members)} members, more than the allowed {limits.zip_members}.",
            code="zip_members",
        )
    named = zip(map(shown_name, member_names([member for _, member in members])), members, strict=True)
    for shown, (index, member) in sorted(named, key=lambda pair: pair[0]):
        if not any(is_passed_over(part) for part in shown.split("/")):
            content = ZipMember(path, index, limits.zip_member_bytes)
            yield from _member(archive, member, Source(prefix + shown, load=content), limits, others)


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Source, limits: Limits, others: Counter[str]
) -> Iterator[Source]:
    name = source.name
    error, start = member_error(member, limits), b""
    if error is None:
        try:
            start = read_member(archive, member, HEAD_BYTES)
        except KneeGradeError as read_error:
            error = read_error
    kind = kind_of_other_file(name, start)
    if kind is not None:
        others[kind] += 1
        return
    if error is None:
        if start.startswith(ZIP_MAGIC):
            error = UnsupportedFileError(
                "Nested zip archives are not supported; extract the outer archive first.", code="nested_zip"
            )
        elif is_own_picture(start):
            return
    if error is not None:
        yield Source(name, error=error)
        return
    yield source
