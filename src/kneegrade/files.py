"""Atomic writing of files: a path holds either the old content or the complete new content.

Single files are written and renamed here only. Memory-mapped arrays that a stopped task resumes have their own
temporary names.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from kneegrade.errors import UsageError


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _create(temporary, mode) as stream:
            yield stream
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_writable(path.name, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _create(path: Path, mode: Literal["w", "wb"]) -> IO[Any]:
    if mode == "wb":
        return path.open("xb")
    return path.open("x", encoding="utf-8", errors="replace", newline="")


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
        raise _not_writable(directory.name, error) from error


def _not_writable(name: str, error: OSError) -> UsageError:
    return UsageError(
        f"{name} could not be written ({error.strerror or type(error).__name__}); choose a directory that exists or "
        "can be created, with write permission and enough free space.",
        code="not_writable",
    )
