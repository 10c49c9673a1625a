"""Atomic writing of files: a path holds either the old content or the complete new content.

Single files are written and renamed here only. Memory-mapped arrays that a stopped task resumes have their own
temporary names.
"""

import errno
import hashlib
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, TextIO, overload

from kneegrade.errors import UsageError

_TEMPORARY: Final = re.compile(r"\..{1,20}\.[0-9a-f]{16}\.tmp", re.DOTALL)
MAX_FILE_BYTES: Final = 2**60  # no file system has more; numpy computes sizes in 64 bits
MAX_NAME_BYTES: Final = 255  # of one file name; usual file systems allow no more


@overload
def replacing(path: Path, mode: Literal["w"] = "w") -> AbstractContextManager[TextIO]: ...


@overload
def replacing(path: Path, mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...


@contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[Any]:
    r"""A stream whose content replaces `path` when the block ends without an exception.

    The content is written to a hidden temporary file in the same directory, which is then renamed to `path`. If the
    block raises, the temporary file is removed and the previous content of `path` is unchanged.

    Args:
        path: the file to create or to replace.
        mode: "w" for a UTF-8 text stream without newline translation, in which characters that UTF-8 cannot encode
            (surrogates from undecodable file names) become "?"; "wb" for a binary stream.

    Raises:
        UsageError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:20]}.{secrets.token_hex(8)}.tmp")  # short, even if the name is long
    try:
        with _create(temporary, mode) as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise not_writable(path.name, error) from error
        raise


def _create(path: Path, mode: Literal["w", "wb"]) -> IO[Any]:
    if mode == "wb":
        return path.open("xb")
    return path.open("x", encoding="utf-8", errors="replace", newline="")


def short_name(name: str, ending_bytes: int = 0) -> str:
    """`name` if a file can have it, else its beginning and ten digits of its SHA-256, which keep long names apart.

    Args:
        name: of a file, without its ending; parts between slashes are shortened separately.
        ending_bytes: length of the longest ending that is added to it.
    """
    return "/".join(_short_part(part, MAX_NAME_BYTES - ending_bytes) for part in name.split("/"))


def _short_part(part: str, limit: int) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= limit:
        return part
    digest = hashlib.sha256(encoded).hexdigest()[:10]
    while len(os.fsencode(part)) > limit - len(digest) - 1:
        part = part[:-1]  # whole characters, which can have several bytes
    return f"{part}-{digest}"


def is_shell_pipe(path: Path) -> bool:
    """Whether a path is a pipe that a shell opened, as in `<(command)` or `command | kneegrade … /dev/stdin`.

    Other named pipes may never have a writer, and reading them would wait for ever.
    """
    return path.is_fifo() and (path == Path("/dev/stdin") or path.parent in (Path("/dev/fd"), Path("/proc/self/fd")))


def write_text(path: Path, text: str) -> None:
    """Write a whole text file through `replacing`.

    Raises:
        UsageError: the file cannot be written.
    """
    with replacing(path) as stream:
        stream.write(text)


def make_directory(directory: Path) -> None:
    """Create `directory` and its missing parents.

    Raises:
        UsageError: the directory cannot be created, for example because a file has this name.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(directory.name, error) from error


def prepare_output(directory: Path, names: Iterable[str] = ()) -> None:
    """Create the output folder `directory`, and check with a temporary file that files can be written to it.

    Args:
        directory: folder for the results; created with its missing parents.
        names: files that will be written or replaced in it.

    Raises:
        UsageError: the folder cannot be created or written, or a folder has one of `names`.
    """
    make_directory(directory)
    probe = directory / f".{secrets.token_hex(8)}.tmp"
    try:
        with probe.open("xb") as stream:
            stream.write(b"kneegrade")
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        raise not_writable(directory.name or str(directory), error) from error
    for name in names:
        if (directory / name).is_dir():
            raise UsageError(
                f"{directory.name} contains a folder named {name}, where a file would be written; rename the folder, "
                "or choose another output folder.",
                code="not_writable",
            )


@contextmanager
def locked_output(directory: Path) -> Iterator[None]:
    """Within the block, no other process can lock the output folder, so that two runs do not mix their files.

    The lock is on the folder itself and leaves no file. The system releases it when the process ends, however it ends.
    Systems and file systems without such locks (Windows, some network file systems) lock nothing.

    Raises:
        UsageError: another process has locked the folder.
    """
    handle = _locked_folder(directory)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked_folder(directory: Path) -> int | None:
    """The open handle that holds the lock; None where there are no locks."""
    try:
        import fcntl

        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another run is writing to {directory.name or directory}; wait for its end, or choose another output "
            "folder.",
            code="locked",
        ) from None
    except OSError:  # the file system has no locks
        pass
    return handle


def remove_temporary(directory: Path) -> None:
    """Remove the temporary files of `replacing` that a killed run has left; nobody else may write to the folder."""
    for path in directory.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A new memory-mapped array in a `.npy` file, with its disk space reserved; no file is left if there is too little.

    A write to a memory-mapped file on a full disk ends the process with a bus error instead of an exception. Systems
    without `posix_fallocate` (macOS) do not reserve anything.

    Args:
        path: the file; it is replaced.
        dtype: of the array.
        shape: of the array.

    Raises:
        UsageError: there is not enough free space, or no file can be so large.
    """
    import numpy as np

    if math.prod(shape) * np.dtype(dtype).itemsize > MAX_FILE_BYTES:
        numbers = " x ".join(map(str, shape))
        raise UsageError(
            f"{path.name} would be too large ({numbers} numbers); choose a smaller number.", code="not_writable"
        )
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with suppress(AttributeError), path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # the file system cannot reserve space
            return array
        path.unlink(missing_ok=True)
        raise not_writable(path.name, error) from error
    return array


def not_writable(name: str, error: OSError) -> UsageError:
    """The error of a file or folder of this name that the system refused to write."""
    return UsageError(
        f"{name} could not be written ({_reason(error)}); choose a folder that exists or can be created, with write "
        "permission and enough free space.",
        code="not_writable",
    )


def _reason(error: BaseException) -> str:
    """What the system says; libraries such as pydicom raise an OSError of their own from the system's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def file_state(path: Path) -> tuple[Path, int, int]:
    """Return absolute path, time of the last change in ns and size in bytes: a key to cache the content of a file by.

    A copy can keep the modification time of another file (`rsync --times`); on Linux and macOS the time of the change
    of the status, which no program sets, is later then.
    """
    status = path.stat()
    return path.absolute(), max(status.st_mtime_ns, status.st_ctime_ns), status.st_size
