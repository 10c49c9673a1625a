"""`check_files`: whether the files that serve.toml names are there, before a service starts and fails."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from kneegrade.errors import UsageError
from kneegrade.server.settings import ServeSettings
from kneegrade.server.toml_lines import line_of, read_toml

_NOT_CHECKED: Final = (("spool", "directory"), ("rest", "tokens"))  # is created; has its own check and remedy


def check_files(path: Path, settings: ServeSettings) -> None:
    """Check that every file that the settings name exists and can be read.

    Args:
        path: of serve.toml.
        settings: that were loaded from it.

    Raises:
        UsageError: one is missing; the message has the line of its setting.
    """
    missing = [keys for keys, file in _paths(settings, ()) if keys not in _NOT_CHECKED and not os.access(file, os.R_OK)]
    if not missing:
        return
    text, _ = read_toml(path)
    lines = []
    for keys in missing:
        shown = ".".join(str(part + 1) if isinstance(part, int) else part for part in keys)
        lines.append(
            f"{path.name}, line {line_of(text, keys)}: {shown}: the file does not exist or cannot be read; correct the "
            "path (relative paths start at the folder of this file), or its permissions."
        )
    raise UsageError("\n".join(lines), code="settings")


def _paths(section: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Path]]:
    """All paths in a section, with their keys."""
    if isinstance(section, Path):
        yield keys, section
    elif isinstance(section, tuple):
        for number, one in enumerate(section):
            yield from _paths(one, (*keys, number))
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from _paths(getattr(section, name), (*keys, name))
