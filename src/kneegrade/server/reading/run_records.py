"""What a run of `grade` or `batch` recorded in its folder: its inputs, and the identity of its films."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from kneegrade.batch.run_file import RUN_FILE
from kneegrade.errors import UsageError
from kneegrade.reporting import INPUTS_FILE

REPORT: Final = "report.json"

Identity = tuple[str, str | None]  # name of a film, and SHA-256 of its file


def film_keys(films: Iterable[Identity]) -> dict[Identity, str]:
    """The key of each film, 40 hexadecimal digits: a function of its content, so that it keeps its readings if renamed.

    Several films of the same content have keys by their order. The key of a film that could not be read, which has no
    SHA-256, is a function of its name.
    """
    numbers, keys = Counter[str](), dict[Identity, str]()
    for name, sha256 in dict.fromkeys(films):
        content = sha256 or f"name {name}"
        text = f"{content}\0{numbers[content]}".encode("utf-8", "surrogateescape")
        keys[name, sha256] = hashlib.sha256(text).hexdigest()[:40]
        numbers[content] += 1
    return keys


def run_inputs(directory: Path) -> list[Path] | None:
    """The inputs of the run that wrote a folder, or None if it recorded none."""
    for name in (INPUTS_FILE, RUN_FILE):
        recorded = json_object(directory / name).get("inputs") if (directory / name).is_file() else None
        if isinstance(recorded, list):
            return [Path(text) for text in recorded if isinstance(text, str) and "://" not in text]
    return None


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run.

    Raises:
        UsageError: it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} in {path.parent.name} is damaged; grade the films again.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path.name} in {path.parent.name} is damaged; grade the films again.")
    return values
