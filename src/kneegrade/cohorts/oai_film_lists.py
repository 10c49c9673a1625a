"""Films of an OAI download: the lists that name them, and where they lie on disk.

A list of films is a table of one of two kinds, recognised by its columns and not by its name:

- `contents.csv` of an image release: folder, participant, barcode and series of each image.
- `image03.txt`, the manifest of a package of the NIMH Data Archive: tab-separated and quoted, with a second header line
  of descriptions. `image_file` is a path or an address that ends with the film's folder, `accession_number` is the
  barcode.

A film lies in its folder `<participant>/<yyyymmdd>/<8 digits>`, or is packed beside it as `.tar.gz`. Folders are looked
for beside the list, in its folders `results` and `image03`, and at last anywhere below the root by these three names.
"""

import os
import re
import tarfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from kneegrade.cohorts.readings import Counts
from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError
from kneegrade.imaging.other_files import is_passed_over

CONTENTS_COLUMNS = {
    "folder": "FOLDER", "subject": "PARTICIPANTID", "barcode": "BARCODE", "series": "SERIESDESCRIPTION"
}  # fmt: skip
PACKAGE_COLUMNS = {
    "folder": "IMAGE_FILE", "subject": "SRC_SUBJECT_ID", "barcode": "ACCESSION_NUMBER", "series": "IMAGE_DESCRIPTION"
}  # fmt: skip
KNEE_SERIES = "Bilateral PA Fixed Flexion Knee"
FILM_NAMES = ("001", "001.dcm", "00001")
PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar")
PACKAGE_FOLDERS = ("", "results", "image03", "results/image03")
MAX_FILM_BYTES = 256 << 20
PACKED_EXCLUDED = "films packed as .tar.gz, excluded (unpack them or use --unpack-to)"
_DIGITS = re.compile(r"\d+")


def is_film_list(header: frozenset[str]) -> bool:
    """True if the columns of a table are those of a list of films."""
    return set(CONTENTS_COLUMNS.values()) <= header or set(PACKAGE_COLUMNS.values()) <= header


def is_hidden(name: str) -> bool:
    """True for the files that macOS and Windows leave in folders, and for other hidden files."""
    return is_passed_over(name) or name.casefold() in ("thumbs.db", "desktop.ini")


def read_film_list(path: Path) -> pd.DataFrame:
    """Return the rows of a list of films as text: `folder` (with slashes), `subject`, `barcode`, `series`.

    Raises:
        CohortError: the file is not a table, or it lacks a column.
    """
    table = read_table(path)
    is_package = "IMAGE_FILE" in table.columns
    columns = PACKAGE_COLUMNS if is_package else CONTENTS_COLUMNS
    missing = [name for name in columns.values() if name not in table.columns]
    if missing:
        raise CohortError(f"{path} lacks the columns {', '.join(missing)}.")
    rows = pd.DataFrame({name: table[column] for name, column in columns.items()})
    if is_package and len(rows) and not _DIGITS.match(rows["subject"].iloc[0]):
        rows = rows.iloc[1:]  # the second header line
    return rows.assign(folder=rows["folder"].map(_inner_path))


def is_knee_series(series: pd.Series) -> "pd.Series[bool]":
    """True for the rows whose series is that of the bilateral knee films."""
    return series.str.split().str.join(" ").str.casefold() == KNEE_SERIES.casefold()


def _inner_path(text: str) -> str:
    """The folder that a list names, without the address of a bucket, the suffix of an archive and the film's name."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if "://" in text:
        parts = parts[2:]  # scheme and bucket
    if parts and parts[-1].casefold() in FILM_NAMES:
        parts.pop()
    suffix = next((end for end in PACKED_SUFFIXES if parts and parts[-1].lower().endswith(end)), "")
    return "/".join(parts)[: -len(suffix) or None]


@dataclass
class FilmFinder:
    """Finds the films of the lists below a root.

    Attributes:
        root: folder of the download.
        unpack_to: folder below which packed films are unpacked, once; None excludes them.
        counts: packed films and archives without a film are added.
        first_missing: the first path that was looked for in vain; None if every film was found.
    """

    root: Path
    unpack_to: Path | None
    counts: Counts
    first_missing: Path | None = field(default=None, init=False)

    def find(self, list_folder: Path, folder: str) -> str | None:
        """Return the path of the film in a folder (`001`, or the only file), None if there is none.

        Args:
            list_folder: folder of the list of films.
            folder: folder of the film, as the list names it.
        """
        beside = [list_folder / base / folder for base in PACKAGE_FOLDERS]
        for place in beside:
            found = self._at(place)
            if found is not None:
                return found or None
        key = tuple(part.casefold() for part in PurePosixPath(folder).parts[-3:])
        place_elsewhere = self._folders.get(key) if len(key) == 3 else None
        found = None if place_elsewhere is None else self._at(place_elsewhere)
        if found is None and self.first_missing is None:
            self.first_missing = beside[0] / FILM_NAMES[0]
        return found or None

    def _at(self, folder: Path) -> str | None:
        """The film in or packed beside a folder; "" if it is packed and excluded, or damaged; None if there is none."""
        film = _film_in(folder)
        if film is not None:
            return film
        archives = (folder.with_name(folder.name + suffix) for suffix in PACKED_SUFFIXES)
        archive = next((path for path in archives if path.is_file()), None)
        if archive is None:
            return None
        if self.unpack_to is None:
            self.counts.add(PACKED_EXCLUDED)
            return ""
        target = (self.unpack_to / Path(os.path.relpath(folder, self.root))).resolve()
        film = _film_in(target) or _unpack_film(archive, target)
        self.counts.add("films unpacked from .tar.gz" if film else "archives that are damaged or hold no film")
        return film or ""

    @cached_property
    def _folders(self) -> dict[tuple[str, ...], Path]:
        """The last three names (participant, date, number) → the folder of a film, in or beside which it lies."""
        found: dict[tuple[str, ...], Path] = {}
        for folder, below, names in os.walk(self.root):
            below[:] = sorted(name for name in below if not is_hidden(name))
            stems = [name[: -len(end)] for name in names for end in PACKED_SUFFIXES if name.lower().endswith(end)]
            for name in [*below, *stems]:
                place = Path(folder, name)
                key = tuple(part.casefold() for part in place.parts[-3:])
                if len(key) == 3 and all(_DIGITS.fullmatch(part) for part in key):
                    found.setdefault(key, place)
        return found


def _film_in(folder: Path) -> str | None:
    """Return the path of the film in a folder, None if there is none or the choice is ambiguous.

    Some programs unpack an archive into a folder of its name, so the film may lie one folder of this name deeper.
    """
    for name in FILM_NAMES:
        if (folder / name).is_file():
            return str(folder / name)
    if not folder.is_dir():
        return None
    entries = [path for path in folder.iterdir() if not is_hidden(path.name)]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name == folder.name:
        return _film_in(entries[0])
    files = [path for path in entries if path.is_file()]
    return str(files[0]) if len(files) == 1 else None


def _unpack_film(archive: Path, target: Path) -> str | None:
    """Write the film of an archive into the folder `target` and return its path, None if the archive contains no film.

    No name in the archive is used as a path.

    Raises:
        CohortError: the folder cannot be written.
    """
    try:
        with tarfile.open(archive, "r:*") as packed:
            members = [
                m for m in packed.getmembers()
                if m.isfile() and m.size <= MAX_FILM_BYTES and not is_hidden(PurePosixPath(m.name).name)
            ]  # fmt: skip
            named = [m for m in members if PurePosixPath(m.name).name in FILM_NAMES]
            chosen = named[0] if named else members[0] if len(members) == 1 else None
            stream = None if chosen is None else packed.extractfile(chosen)
            film = None if stream is None else stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error):
        return None
    if film is None:
        return None
    try:
        target.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".part")
        draft.write_bytes(film)
        return str(draft.replace(target / FILM_NAMES[0]))
    except OSError as error:
        raise CohortError(
            f"{target} cannot be written ({error.strerror}). --unpack-to needs a folder with space for the films."
        ) from error
