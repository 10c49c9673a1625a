"""Where the tables and the lists of films of an OAI download lie, found in one walk that stays out of the releases."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from kneegrade.errors import CohortError

READINGS = re.compile(r"kxr_sq_bu(\d\d)\.(txt|csv|sas7bdat)", re.IGNORECASE)
WIDTHS = re.compile(r"kxr_qjsw_duryea(\d\d)\.(txt|csv|sas7bdat)", re.IGNORECASE)
CONTENTS = re.compile(r"contents.*\.csv", re.IGNORECASE)
RELEASE = re.compile(r"\d+\.[A-Z]\.\d+")


@dataclass(frozen=True)
class OaiFiles:
    """Attributes: root; visit code → table of readings, and of widths; lists of films (`contents.csv`)."""

    root: Path
    readings: dict[str, Path] = field(default_factory=dict)
    widths: dict[str, Path] = field(default_factory=dict)
    contents: list[Path] = field(default_factory=list)


def oai_files(root: Path) -> OaiFiles:
    """What `root` holds, at any depth; releases (`0.C.2`) beside a `contents.csv` are not looked into.

    Raises:
        CohortError: two tables of one visit and format in different folders.
    """
    files = OaiFiles(root)
    for folder, below, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            for pattern, found in ((READINGS, files.readings), (WIDTHS, files.widths)):
                if match := pattern.fullmatch(name):
                    _add(found, match[1], path)
            if CONTENTS.fullmatch(name):
                files.contents.append(path)
        if any(CONTENTS.fullmatch(name) for name in names):
            below[:] = [name for name in below if not RELEASE.fullmatch(name)]
        below.sort()
    return files


def _add(found: dict[str, Path], code: str, path: Path) -> None:
    """Keep a visit's table: text before SAS; two alike are a question that only the user can answer."""
    other = found.get(code)
    if other is not None and (other.suffix.lower() == ".sas7bdat") == (path.suffix.lower() == ".sas7bdat"):
        raise CohortError(f"{other} and {path} are tables of one visit; leave one below the folder.")
    if other is None or other.suffix.lower() == ".sas7bdat":
        found[code] = path
