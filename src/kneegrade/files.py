"""Files that are either the old ones or the whole new ones, never half of one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kneegrade.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    r"""A UTF-8 text stream whose content becomes `path` when the block ends well.

    The text goes to a hidden file beside `path` that is renamed at the end; if the block raises, that file is
    removed and whatever was at `path` stays. Characters that UTF-8 cannot hold (file names with undecodable bytes)
    become "?".

    Raises:
        UsageError: the place cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("x", encoding="utf-8", errors="replace", newline="") as stream:
            yield stream
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _not_writable(path.name, error) from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def make_directory(directory: Path) -> None:
    """Makes `directory` and its parents where they are missing.

    Raises:
        UsageError: it cannot be made, for example because a file has its name.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(directory.name, error) from error


def _not_writable(name: str, error: OSError) -> UsageError:
    return UsageError(
        f"{name} could not be written ({error.strerror or type(error).__name__}); "
        "name a directory that exists or can be made, with room and the right to write.",
        code="not_writable",
    )
