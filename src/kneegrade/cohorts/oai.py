"""Osteoarthritis Initiative (OAI): tables and films of a download.

Tables of central readings, `kXR_SQ_BU##`: pipe-separated text (Latin-1, CRLF) or `.sas7bdat`, one row per (ID, SIDE,
READPRJ). Project 15 read the visits up to 48 months, project 37 those at 72 and 96 months (42 counts as 37). Some
early films were read again. Text tables that were renamed are recognised by their columns.

Films: see `kneegrade.cohorts.oai_film_lists`. The barcode of a reading identifies its film.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.cohorts.oai_film_lists import FilmFinder, is_film_list, is_hidden, is_knee_series, read_film_list
from kneegrade.cohorts.readings import (
    Counts,
    decode_grades,
    decode_integers,
    decode_sides,
    problems_at,
    raise_problems,
    unique_readings,
)
from kneegrade.cohorts.table_files import TEXT_TABLE, read_header, read_table
from kneegrade.errors import CohortError

READING_TABLE = re.compile(r"kxr_sq_bu(\d\d)\.(txt|csv|tsv|sas7bdat)", re.IGNORECASE)
WIDTH_TABLE = re.compile(r"kxr_qjsw_duryea(\d\d)\.(txt|csv|tsv|sas7bdat)", re.IGNORECASE)
READING_COLUMN = re.compile(r"V(\d\d)XRKL")
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
SIDE_CODES = {"1": "R", "2": "L"}


@dataclass(frozen=True)
class OaiFiles:
    """The files of an OAI download.

    Attributes:
        root: folder of the download.
        readings: visit code → table of readings.
        widths: visit code → table of joint space widths.
        film_lists: lists of films (`contents.csv`, `image03.txt`).
    """

    root: Path
    readings: dict[str, Path] = field(default_factory=dict)
    widths: dict[str, Path] = field(default_factory=dict)
    film_lists: list[Path] = field(default_factory=list)


def oai_files(root: Path) -> OaiFiles:
    """Return the tables and film lists below `root`, at any depth.

    Tables of readings and of widths are found by their names, renamed tables of readings and all lists of films by
    their columns. Release folders (`0.C.2`) below a list of films are not searched, because they hold only films.

    Raises:
        CohortError: two tables of one visit have the same format and lie in different folders.
    """
    files, renamed = OaiFiles(root), list[tuple[str, Path]]()
    for folder, below, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(names) if not is_hidden(name)):
            if match := READING_TABLE.fullmatch(path.name):
                _add_table(files.readings, match[1], path)
            elif match := WIDTH_TABLE.fullmatch(path.name):
                _add_table(files.widths, match[1], path)
            elif TEXT_TABLE.fullmatch(path.name):
                header = read_header(path)
                if is_film_list(header):
                    files.film_lists.append(path)
                elif "READPRJ" in header and (
                    codes := {m[1] for name in header if (m := READING_COLUMN.fullmatch(name))}
                ):
                    renamed += [(code, path) for code in codes]
        if any(Path(folder).is_relative_to(path.parent) for path in files.film_lists):
            below[:] = [name for name in below if not RELEASE_FOLDER.fullmatch(name)]
        below[:] = sorted(name for name in below if not is_hidden(name))
    named = set(files.readings)
    for code, path in renamed:
        if code not in named:
            _add_table(files.readings, code, path)
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
    table = _without_descriptions(read_table(path))
    barcode = f"V{code}BARCDBU"
    required = ["ID", "SIDE", "READPRJ", barcode, f"V{code}{GRADE_COLUMNS['kl']}"]
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise CohortError(f"{path.name} lacks the columns {', '.join(missing)}; a table of visit {code} was expected.")
    counts.add("rows read", len(table))
    side, no_side, wrong_side = decode_sides(table["SIDE"], path.name, SIDE_CODES)
    project, wrong_project = decode_integers(table["READPRJ"], path.name, PROJECTS)
    wrong_id = problems_at(table["ID"], ~table["ID"].str.fullmatch(r"\d{7}(\.0+)?"), path.name, "seven digits")
    raise_problems([*wrong_id, *wrong_side, *wrong_project])
    grades = decode_grades(table, {name: f"V{code}{end}" for name, end in GRADE_COLUMNS.items()}, path.name, counts)
    readings = grades.assign(
        subject_id=SUBJECT_PREFIX + table["ID"].str[:7], side=side, visit=VISIT_MONTHS[code],
        project=project, barcode=_barcodes(table[barcode]), file=path.name, row=table.index,
    )  # fmt: skip
    counts.add("rows without a side, excluded", int(no_side.sum()))
    readings = unique_readings(readings[~no_side], ["subject_id", "side", "project"], counts)
    return _choose_project(readings, VISIT_MONTHS[code], counts)


def _without_descriptions(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the column ID, without the second header line that packages of the NDA have."""
    table = table.rename(columns={} if "ID" in table.columns else {"SRC_SUBJECT_ID": "ID"})
    if not len(table) or not {"ID", "SIDE", "READPRJ"} <= set(table.columns):
        return table
    is_description = not table.iloc[0][["ID", "SIDE", "READPRJ"]].str.contains(r"\d").any()
    return table.iloc[1:] if is_description else table


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
        side, _, wrong_side = decode_sides(table["SIDE"], path.name, SIDE_CODES)
        raise_problems(wrong_side)
        widths = {
            name: pd.to_numeric(table[column], errors="coerce") if column in table.columns else np.nan
            for name, column in columns.items()
        }
        keys = {"subject_id": SUBJECT_PREFIX + table["ID"].str[:7], "side": side}
        parts.append(pd.DataFrame({**keys, "visit": VISIT_MONTHS[code], **widths}))
    if not parts:
        return readings
    measured = pd.concat(parts).drop_duplicates(["subject_id", "side", "visit"])
    merged = readings.merge(measured, on=["subject_id", "side", "visit"], how="left", validate="many_to_one")
    counts.add("knees with a measured joint space width", int(merged["joint_space_medial_mm"].notna().sum()))
    return merged


def oai_films(files: OaiFiles, finder: FilmFinder) -> pd.DataFrame:
    """Return the bilateral knee films: `barcode` (twelve digits, unique), `subject_id`, `path` (None: missing), `view`.

    If several lists name the same film, the first one that is on disk is used.

    Args:
        files: files of a download.
        finder: finds the films; numbers of excluded, packed and damaged films are added to its counts.

    Raises:
        CohortError: there is no list of films, or one lacks a column.
    """
    counts = finder.counts
    if not files.film_lists:
        raise CohortError(
            f"{files.root} contains no list of films: no contents.csv, which every OAI image release includes, and no "
            "image03.txt, which packages of the NIMH Data Archive include. Copy it as well."
        )
    parts = []
    for file in files.film_lists:
        table = read_film_list(file)
        knees = table[is_knee_series(table["series"])]
        counts.add("series of other joints or sequences, excluded", len(table) - len(knees))
        paths = [finder.find(file.parent, folder) for folder in knees["folder"]]
        subjects = SUBJECT_PREFIX + knees["subject"].str[:7]
        films = {"barcode": _barcodes(knees["barcode"]).to_numpy(), "subject_id": subjects.to_numpy()}
        parts.append(pd.DataFrame({**films, "path": pd.Series(paths, dtype=object)}))
    listed = pd.concat(parts, ignore_index=True)
    listed = listed[listed["barcode"] != ""]
    absent = listed["path"].isna()
    kept = listed.assign(absent=absent).sort_values(["barcode", "absent"], kind="stable").drop_duplicates("barcode")
    counts.add("duplicate entries in lists of films, excluded", len(listed) - len(kept))
    return kept.drop(columns="absent").assign(view="PA")
