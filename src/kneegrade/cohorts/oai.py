"""Osteoarthritis Initiative: central readings of knee radiographs (`kXR_SQ_BU##`), their films, the manifest.

Tables: pipe-separated text, Latin-1, CRLF, or `.sas7bdat`; a row per (ID, SIDE, READPRJ). Project 15 read visits up
to 48 months, project 37 those at 72 and 96 (42 counts as 37); some early films were read again. Films: `contents.csv`
per release lists folders by participant and series; the barcode of a reading names its film.

Where the tables and the lists of films of an OAI download lie, found in one walk that stays out of the releases.

The film in a folder of an OAI release, as it lies there or packed as `<folder>.tar.gz` beside it.
"""

import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from kneegrade.cohorts.readings import (
    Counts,
    decoded_grades,
    problems_at,
    read_table,
    refuse,
    unique_readings,
    whole_numbers,
)
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


FILM_NAMES = ("001", "001.dcm", "00001")
MOST_BYTES = 256 << 20  # of one film


def film_in(root: Path, folder: str, unpack_to: Path | None, counts: Counts) -> str | None:
    """Path of the film in `folder` below `root`: `001` or the only file; None where there is none.

    Args:
        root: folder of the `contents.csv`.
        folder: as the list names it.
        unpack_to: packed films are unpacked below it, once; None leaves them out.
        counts: packed films are added, and archives that hold no film.
    """
    inner = PurePosixPath(*(part for part in folder.replace("\\", "/").split("/") if part not in ("", ".", "..")))
    place = root / inner
    film = _film(place)
    archive = place.with_name(place.name + ".tar.gz")
    if film is not None or not archive.is_file():
        return film
    if unpack_to is None:
        counts.add("films still packed as .tar.gz: unpack them, or give --unpack-to")
        return None
    target = (unpack_to / root.name / inner).resolve()
    film = _film(target) or _unpacked(archive, target)
    counts.add("films unpacked from .tar.gz" if film else "archives without a film, or damaged")
    return film


def _film(place: Path) -> str | None:
    for name in FILM_NAMES:
        if (place / name).is_file():
            return str(place / name)
    files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    return str(files[0]) if len(files) == 1 else None


def _unpacked(archive: Path, target: Path) -> str | None:
    """Write the film of an archive into the folder `target`; no name in the archive is used as a path.

    Raises:
        CohortError: the folder cannot be written.
    """
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = [m for m in packed.getmembers() if m.isfile() and m.size <= MOST_BYTES]
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
            f"{target} cannot be written ({error.strerror}); --unpack-to needs room for the films."
        ) from error


MONTHS = {"00": 0, "01": 12, "03": 24, "05": 36, "06": 48, "08": 72, "10": 96}
PROJECTS = (15, 37, 42)
LATE = (72, 96)
SERIES = "Bilateral PA Fixed Flexion Knee"
COLUMNS = {
    "kl": "XRKL", "jsn_lateral": "XRJSL", "jsn_medial": "XRJSM", "osteophyte_femur_lateral": "XROSFL",
    "osteophyte_femur_medial": "XROSFM", "osteophyte_tibia_lateral": "XROSTL", "osteophyte_tibia_medial": "XROSTM",
}  # fmt: skip
SUBJECT = "oai-"  # Chen 2018 has the same people: one name for both
BARCODE_DIGITS = 12


def oai_readings(files: OaiFiles, visits: Iterable[str] | None = None, counts: Counts | None = None) -> pd.DataFrame:
    """The readings of all tables, one row per knee and visit, with `project` and `barcode`; `subject_id` is `oai-<ID>`.

    Args:
        files: of a download.
        visits: codes ("00", "01", …) to keep; all by default.
        counts: what was met is added.

    Raises:
        CohortError: a table that is asked for and not there, an unknown visit, a missing column or a value that cannot
            be, by file, row and column.
    """
    counts = Counts() if counts is None else counts
    wanted = sorted(files.readings if visits is None else set(visits))
    unknown = [code for code in wanted if code not in MONTHS]
    if unknown:
        raise CohortError(f"Visits {', '.join(unknown)}; the OAI has {', '.join(MONTHS)}.")
    lacking = [code for code in wanted if code not in files.readings]
    if lacking or not wanted:
        names = "/".join(lacking) or "##"
        raise CohortError(f"{files.root} holds no table kXR_SQ_BU{names} (.txt, .csv or .sas7bdat).")
    return pd.concat([_visit(files.readings[code], code, counts) for code in wanted], ignore_index=True)


def with_widths(readings: pd.DataFrame, files: OaiFiles, counts: Counts) -> pd.DataFrame:
    """Readings with `joint_space_medial_mm` and `joint_space_lateral_mm` where the download has Duryea's widths.

    Medial is the minimum of the medial compartment (MCMJSW), lateral the width at x = 0.825 (LJSW825), in mm.
    """
    parts = []
    for code, path in files.widths.items():
        table = read_table(path)
        columns = {"joint_space_medial_mm": f"V{code}MCMJSW", "joint_space_lateral_mm": f"V{code}LJSW825"}
        if code not in MONTHS or not {"ID", "SIDE"} <= set(table.columns):
            continue
        side, wrong = whole_numbers(table["SIDE"], path.name, (1, 2))
        refuse(wrong)
        widths = {
            name: pd.to_numeric(table[column], errors="coerce") if column in table.columns else np.nan
            for name, column in columns.items()
        }
        keys = {"subject_id": SUBJECT + table["ID"].str[:7], "side": np.where(side == 1, "R", "L")}
        parts.append(pd.DataFrame({**keys, "visit": MONTHS[code], **widths}))
    if not parts:
        return readings
    measured = pd.concat(parts).drop_duplicates(["subject_id", "side", "visit"])
    merged = readings.merge(measured, on=["subject_id", "side", "visit"], how="left", validate="many_to_one")
    counts.add("knees with a measured joint space", int(merged["joint_space_medial_mm"].notna().sum()))
    return merged


def _visit(path: Path, code: str, counts: Counts) -> pd.DataFrame:
    table = read_table(path)
    barcode = f"V{code}BARCDBU"
    needed = ["ID", "SIDE", "READPRJ", barcode, f"V{code}{COLUMNS['kl']}"]
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        raise CohortError(f"{path.name} lacks the columns {', '.join(lacking)}; is it a table of visit {code}?")
    counts.add("rows read", len(table))
    side, wrong_side = whole_numbers(table["SIDE"], path.name, (1, 2))
    project, wrong_project = whole_numbers(table["READPRJ"], path.name, PROJECTS)
    ids = problems_at(table["ID"], ~table["ID"].str.fullmatch(r"\d{7}(\.0+)?"), path.name, "seven digits")
    refuse([*ids, *wrong_side, *wrong_project])
    grades = decoded_grades(table, {name: f"V{code}{end}" for name, end in COLUMNS.items()}, path.name, counts)
    readings = grades.assign(
        subject_id=SUBJECT + table["ID"].str[:7], side=np.where(side == 1, "R", "L"), visit=MONTHS[code],
        project=project, barcode=_barcodes(table[barcode]), file=path.name, row=table.index,
    )  # fmt: skip
    readings = unique_readings(readings, ["subject_id", "side", "project"], counts)
    return _chosen_project(readings, MONTHS[code], counts)


def _barcodes(cells: pd.Series) -> pd.Series:
    """Twelve digits, zeros in front restored; empty where the table has none."""
    digits = cells.str.extract(r"^0*(\d+)(?:\.0+)?$")[0]
    return digits.str.zfill(BARCODE_DIGITS).fillna("")


def _chosen_project(readings: pd.DataFrame, months: int, counts: Counts) -> pd.DataFrame:
    """One reading per knee: project 15 up to 48 months, 37 (or 42, which counts as it) later; another's where alone."""
    order = {37: 0, 42: 1, 15: 2} if months in LATE else {15: 0, 37: 1, 42: 2}
    ranked = readings.assign(rank=readings["project"].map(order)).sort_values(["subject_id", "side", "rank"])
    kept = ranked.drop_duplicates(["subject_id", "side"])
    counts.add("READPRJ 42 counted as 37", int((kept["project"] == 42).sum()))
    counts.add("read by two projects, one chosen", len(ranked) - len(kept))
    usual = (37, 42) if months in LATE else (15,)
    counts.add("read by another project alone", int((~kept["project"].isin(usual)).sum()))
    return kept.drop(columns="rank").sort_values(["subject_id", "side"], ascending=[True, False])


def oai_films(files: OaiFiles, counts: Counts | None = None, unpack_to: Path | None = None) -> pd.DataFrame:
    """The bilateral knee films: `barcode` (twelve digits, each once), `subject_id`, `path` (None: not there), `view`.

    Folders are taken from the place of the `contents.csv` that lists them. Where several list one film, the first that
    is on disk is kept. Films still packed as `.tar.gz` are unpacked below `unpack_to`, or left out and counted.

    Raises:
        CohortError: no `contents.csv`, or one that lacks a column.
    """
    counts = Counts() if counts is None else counts
    if not files.contents:
        raise CohortError(f"{files.root} holds no contents.csv; the OAI's image releases bring one each.")
    parts = []
    for file in files.contents:
        table = read_table(file)
        lacking = [name for name in ("FOLDER", "PARTICIPANTID", "BARCODE", "SERIESDESCRIPTION") if name not in table]
        if lacking:
            raise CohortError(f"{file} lacks the columns {', '.join(lacking)}.")
        knees = table[table["SERIESDESCRIPTION"] == SERIES]
        counts.add("series of other joints or sequences, left out", len(table) - len(knees))
        paths = [film_in(file.parent, folder, unpack_to, counts) for folder in knees["FOLDER"]]
        subjects = SUBJECT + knees["PARTICIPANTID"].str[:7]
        films = {"barcode": _barcodes(knees["BARCODE"]).to_numpy(), "subject_id": subjects.to_numpy()}
        parts.append(pd.DataFrame({**films, "path": pd.Series(paths, dtype=object)}))
    films_table = pd.concat(parts, ignore_index=True)
    films_table = films_table[films_table["barcode"] != ""]
    absent = films_table["path"].isna()
    kept = (
        films_table.assign(absent=absent).sort_values(["barcode", "absent"], kind="stable").drop_duplicates("barcode")
    )
    counts.add("films listed twice", len(films_table) - len(kept))
    return kept.drop(columns="absent").assign(view="PA")
