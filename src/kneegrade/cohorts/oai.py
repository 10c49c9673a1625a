"""Osteoarthritis Initiative (OAI): tables and films of a download.

Tables of central readings, `kXR_SQ_BU##`: pipe-separated text (Latin-1, CRLF) or `.sas7bdat`, one row per (ID, SIDE,
READPRJ). Project 15 read the visits up to 48 months, project 37 those at 72 and 96 months (42 counts as 37). Some
early films were read again.

Films: the `contents.csv` of each image release lists folders by participant and series. The barcode of a reading
identifies its film. A film lies in its folder, or packed beside it as `<folder>.tar.gz`.
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
    decode_grades,
    decode_integers,
    problems_at,
    raise_problems,
    read_table,
    unique_readings,
)
from kneegrade.errors import CohortError

READING_TABLE = re.compile(r"kxr_sq_bu(\d\d)\.(txt|csv|sas7bdat)", re.IGNORECASE)
WIDTH_TABLE = re.compile(r"kxr_qjsw_duryea(\d\d)\.(txt|csv|sas7bdat)", re.IGNORECASE)
FILM_LIST = re.compile(r"contents.*\.csv", re.IGNORECASE)
RELEASE_FOLDER = re.compile(r"\d+\.[A-Z]\.\d+")
VISIT_MONTHS = {"00": 0, "01": 12, "03": 24, "05": 36, "06": 48, "08": 72, "10": 96}
LATE_MONTHS = (72, 96)  # read by projects 37 and 42
PROJECTS = (15, 37, 42)
GRADE_COLUMNS = {
    "kl": "XRKL", "jsn_lateral": "XRJSL", "jsn_medial": "XRJSM", "osteophyte_femur_lateral": "XROSFL",
    "osteophyte_femur_medial": "XROSFM", "osteophyte_tibia_lateral": "XROSTL", "osteophyte_tibia_medial": "XROSTM",
}  # fmt: skip
SUBJECT_PREFIX = "oai-"  # Chen 2018 has the same people and uses the same names for them
BARCODE_DIGITS = 12
KNEE_SERIES = "Bilateral PA Fixed Flexion Knee"
FILM_NAMES = ("001", "001.dcm", "00001")
MAX_FILM_BYTES = 256 << 20


@dataclass(frozen=True)
class OaiFiles:
    """The files of an OAI download.

    Attributes:
        root: folder of the download.
        readings: visit code → table of readings.
        widths: visit code → table of joint space widths.
        contents: lists of films (`contents.csv`).
    """

    root: Path
    readings: dict[str, Path] = field(default_factory=dict)
    widths: dict[str, Path] = field(default_factory=dict)
    contents: list[Path] = field(default_factory=list)


def oai_files(root: Path) -> OaiFiles:
    """Return the tables and film lists below `root`, at any depth.

    Release folders (`0.C.2`) beside a `contents.csv` are not searched, because they hold only films.

    Raises:
        CohortError: two tables of one visit have the same format and lie in different folders.
    """
    files = OaiFiles(root)
    for folder, below, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            for pattern, found in ((READING_TABLE, files.readings), (WIDTH_TABLE, files.widths)):
                if match := pattern.fullmatch(name):
                    _add_table(found, match[1], path)
            if FILM_LIST.fullmatch(name):
                files.contents.append(path)
        if any(FILM_LIST.fullmatch(name) for name in names):
            below[:] = [name for name in below if not RELEASE_FOLDER.fullmatch(name)]
        below.sort()
    return files


def _add_table(found: dict[str, Path], code: str, path: Path) -> None:
    """Add the table of a visit; text is preferred to SAS.

    Raises:
        CohortError: the visit already has another table of this format; only the user can choose between them.
    """
    other = found.get(code)
    if other is not None and (other.suffix.lower() == ".sas7bdat") == (path.suffix.lower() == ".sas7bdat"):
        raise CohortError(f"{other} and {path} are tables of the same visit. Keep only one of them below the folder.")
    if other is None or other.suffix.lower() == ".sas7bdat":
        found[code] = path


def oai_readings(files: OaiFiles, visits: Iterable[str] | None = None, counts: Counts | None = None) -> pd.DataFrame:
    """Return the readings of all tables, one row per knee and visit; see `kneegrade.cohorts.readings`.

    There are two further columns, `project` and `barcode`; `subject_id` is `oai-<ID>`.

    Args:
        files: files of a download.
        visits: codes of the visits to read ("00", "01", …); all by default.
        counts: numbers of rows and special cases are added.

    Raises:
        CohortError: a requested table is missing, a visit is unknown, a column is missing or a value is invalid. The
            message names file, row and column.
    """
    counts = Counts() if counts is None else counts
    codes = sorted(files.readings if visits is None else set(visits))
    unknown = [code for code in codes if code not in VISIT_MONTHS]
    if unknown:
        raise CohortError(f"Unknown visits: {', '.join(unknown)}. The OAI has the visits {', '.join(VISIT_MONTHS)}.")
    missing = [code for code in codes if code not in files.readings]
    if missing or not codes:
        names = "/".join(missing) or "##"
        raise CohortError(f"{files.root} contains no table kXR_SQ_BU{names} (.txt, .csv or .sas7bdat).")
    return pd.concat([_read_visit(files.readings[code], code, counts) for code in codes], ignore_index=True)


def _read_visit(path: Path, code: str, counts: Counts) -> pd.DataFrame:
    """Return the readings of one visit, one row per knee."""
    table = read_table(path)
    barcode = f"V{code}BARCDBU"
    required = ["ID", "SIDE", "READPRJ", barcode, f"V{code}{GRADE_COLUMNS['kl']}"]
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise CohortError(f"{path.name} lacks the columns {', '.join(missing)}; a table of visit {code} was expected.")
    counts.add("rows read", len(table))
    side, wrong_side = decode_integers(table["SIDE"], path.name, (1, 2))
    project, wrong_project = decode_integers(table["READPRJ"], path.name, PROJECTS)
    wrong_id = problems_at(table["ID"], ~table["ID"].str.fullmatch(r"\d{7}(\.0+)?"), path.name, "seven digits")
    raise_problems([*wrong_id, *wrong_side, *wrong_project])
    grades = decode_grades(table, {name: f"V{code}{end}" for name, end in GRADE_COLUMNS.items()}, path.name, counts)
    readings = grades.assign(
        subject_id=SUBJECT_PREFIX + table["ID"].str[:7], side=np.where(side == 1, "R", "L"), visit=VISIT_MONTHS[code],
        project=project, barcode=_barcodes(table[barcode]), file=path.name, row=table.index,
    )  # fmt: skip
    readings = unique_readings(readings, ["subject_id", "side", "project"], counts)
    return _choose_project(readings, VISIT_MONTHS[code], counts)


def _barcodes(cells: pd.Series) -> pd.Series:
    """Return barcodes of twelve digits with leading zeros restored, "" where the table has none."""
    digits = cells.str.extract(r"^0*(\d+)(?:\.0+)?$")[0]
    return digits.str.zfill(BARCODE_DIGITS).fillna("")


def _choose_project(readings: pd.DataFrame, months: int, counts: Counts) -> pd.DataFrame:
    """Return one reading per knee.

    Project 15 is preferred up to 48 months, project 37 (or 42, which counts as 37) later. A reading of another project
    is used if the knee has no other.
    """
    order = {37: 0, 42: 1, 15: 2} if months in LATE_MONTHS else {15: 0, 37: 1, 42: 2}
    ranked = readings.assign(rank=readings["project"].map(order)).sort_values(["subject_id", "side", "rank"])
    kept = ranked.drop_duplicates(["subject_id", "side"])
    counts.add("readings of project 42, counted as project 37", int((kept["project"] == 42).sum()))
    counts.add("second readings of a knee by another project, excluded", len(ranked) - len(kept))
    usual = (37, 42) if months in LATE_MONTHS else (15,)
    counts.add("knees read only by a project not usual for the visit", int((~kept["project"].isin(usual)).sum()))
    return kept.drop(columns="rank").sort_values(["subject_id", "side"], ascending=[True, False])


def add_joint_space_widths(readings: pd.DataFrame, files: OaiFiles, counts: Counts) -> pd.DataFrame:
    """Return readings with `joint_space_medial_mm` and `joint_space_lateral_mm` if the download has Duryea's widths.

    Medial is the minimum width of the medial compartment (MCMJSW), lateral is the width at x = 0.825 (LJSW825), in mm.
    """
    parts = []
    for code, path in files.widths.items():
        table = read_table(path)
        columns = {"joint_space_medial_mm": f"V{code}MCMJSW", "joint_space_lateral_mm": f"V{code}LJSW825"}
        if code not in VISIT_MONTHS or not {"ID", "SIDE"} <= set(table.columns):
            continue
        side, wrong_side = decode_integers(table["SIDE"], path.name, (1, 2))
        raise_problems(wrong_side)
        widths = {
            name: pd.to_numeric(table[column], errors="coerce") if column in table.columns else np.nan
            for name, column in columns.items()
        }
        keys = {"subject_id": SUBJECT_PREFIX + table["ID"].str[:7], "side": np.where(side == 1, "R", "L")}
        parts.append(pd.DataFrame({**keys, "visit": VISIT_MONTHS[code], **widths}))
    if not parts:
        return readings
    measured = pd.concat(parts).drop_duplicates(["subject_id", "side", "visit"])
    merged = readings.merge(measured, on=["subject_id", "side", "visit"], how="left", validate="many_to_one")
    counts.add("knees with a measured joint space width", int(merged["joint_space_medial_mm"].notna().sum()))
    return merged


def oai_films(files: OaiFiles, counts: Counts | None = None, unpack_to: Path | None = None) -> pd.DataFrame:
    """Return the bilateral knee films: `barcode` (twelve digits, unique), `subject_id`, `path` (None: missing), `view`.

    Folders are resolved against the folder of the `contents.csv` that lists them. If several list the same film, the
    first one that is on disk is used.

    Args:
        files: files of a download.
        counts: numbers of excluded, packed and damaged films are added.
        unpack_to: folder below which films packed as `.tar.gz` are unpacked; None excludes them.

    Raises:
        CohortError: there is no `contents.csv`, or one lacks a column.
    """
    counts = Counts() if counts is None else counts
    if not files.contents:
        raise CohortError(
            f"{files.root} contains no contents.csv. Every OAI image release includes one; copy it as well."
        )
    parts = []
    for file in files.contents:
        table = read_table(file)
        missing = [name for name in ("FOLDER", "PARTICIPANTID", "BARCODE", "SERIESDESCRIPTION") if name not in table]
        if missing:
            raise CohortError(f"{file} lacks the columns {', '.join(missing)}.")
        knees = table[table["SERIESDESCRIPTION"] == KNEE_SERIES]
        counts.add("series of other joints or sequences, excluded", len(table) - len(knees))
        paths = [find_film(file.parent, folder, unpack_to, counts) for folder in knees["FOLDER"]]
        subjects = SUBJECT_PREFIX + knees["PARTICIPANTID"].str[:7]
        films = {"barcode": _barcodes(knees["BARCODE"]).to_numpy(), "subject_id": subjects.to_numpy()}
        parts.append(pd.DataFrame({**films, "path": pd.Series(paths, dtype=object)}))
    listed = pd.concat(parts, ignore_index=True)
    listed = listed[listed["barcode"] != ""]
    absent = listed["path"].isna()
    kept = listed.assign(absent=absent).sort_values(["barcode", "absent"], kind="stable").drop_duplicates("barcode")
    counts.add("duplicate entries of films in contents.csv, excluded", len(listed) - len(kept))
    return kept.drop(columns="absent").assign(view="PA")


def find_film(root: Path, folder: str, unpack_to: Path | None, counts: Counts) -> str | None:
    """Return the path of the film in a folder of a release (`001`, or the only file), None if there is none.

    Args:
        root: folder of the `contents.csv`.
        folder: folder of the film, as listed there.
        unpack_to: folder below which packed films are unpacked, once; None excludes them.
        counts: packed films and archives without a film are added.
    """
    inner = PurePosixPath(*(part for part in folder.replace("\\", "/").split("/") if part not in ("", ".", "..")))
    film_folder = root / inner
    film = _film_in(film_folder)
    archive = film_folder.with_name(film_folder.name + ".tar.gz")
    if film is not None or not archive.is_file():
        return film
    if unpack_to is None:
        counts.add("films packed as .tar.gz, excluded (unpack them or use --unpack-to)")
        return None
    target = (unpack_to / root.name / inner).resolve()
    film = _film_in(target) or _unpack_film(archive, target)
    counts.add("films unpacked from .tar.gz" if film else "archives that are damaged or hold no film")
    return film


def _film_in(folder: Path) -> str | None:
    """Return the path of the film in a folder, None if there is none or the choice is ambiguous."""
    for name in FILM_NAMES:
        if (folder / name).is_file():
            return str(folder / name)
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return str(files[0]) if len(files) == 1 else None


def _unpack_film(archive: Path, target: Path) -> str | None:
    """Write the film of an archive into the folder `target` and return its path, None if the archive contains no film.

    No name in the archive is used as a path.

    Raises:
        CohortError: the folder cannot be written.
    """
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = [m for m in packed.getmembers() if m.isfile() and m.size <= MAX_FILM_BYTES]
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
