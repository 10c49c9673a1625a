"""`read_toml` and `line_of`: a TOML file, and the lines on which its keys stand."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from kneegrade.errors import UsageError

MAX_BYTES: Final = 1 << 20


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file and its content.

    Raises:
        UsageError: it cannot be read, is too large or is not TOML.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read ({error.strerror}); check the path.", code="settings") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path.name} has more than {MAX_BYTES} bytes; expected a file of settings.", code="settings")
    try:
        text = content.decode("utf-8")
        return text, tomllib.loads(text)
    except UnicodeDecodeError:
        raise UsageError(f"{path.name} is not UTF-8 text; save it as UTF-8.", code="settings") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name} is not valid TOML: {error}.", code="settings") from None


def line_of(text: str, keys: Sequence[str | int]) -> int:
    r"""The number of the line, from 1, on which a key of a valid TOML text begins.

    The beginnings of the text that are valid TOML by themselves are read until the key appears. If the text lacks it,
    the line is that of its section, or 1.

    Args:
        text: valid TOML.
        keys: names of tables and keys, and indices in arrays, from the outermost.

    Example:
        >>> line_of("[rest]\n# a comment\nport = 1\n", ["rest", "port"])
        3
    """
    whole = tomllib.loads(text)
    known = [*keys]
    while known and not _contains(whole, known):
        known.pop()
    if not known:
        return 1
    lines = text.splitlines(keepends=True)
    after_last_valid = 0
    for number in range(1, len(lines) + 1):
        try:
            tree = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        if _contains(tree, known):
            return after_last_valid + 1
        after_last_valid = number
    return len(lines)


def _contains(tree: Any, keys: Sequence[str | int]) -> bool:
    for key in keys:
        is_there = key in tree if isinstance(tree, dict) else isinstance(key, int) and isinstance(tree, list)
        if not is_there or (isinstance(tree, list) and isinstance(key, int) and key >= len(tree)):
            return False
        tree = tree[key]
    return True
