"""Osteoarthritis Initiative: central readings of knee radiographs (`kXR_SQ_BU##`), their films, the manifest.

Tables: pipe-separated text, Latin-1, CRLF, or `.sas7bdat`; a row per (ID, SIDE, READPRJ). Project 15 read visits up
to 48 months, project 37 those at 72 and 96 (42 counts as 37); some early films were read again. Films: `contents.csv`
per release lists folders by participant and series; the barcode of a reading names its film.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.cohorts.coded import problems_at, read_table, refuse, whole_numbers
from kneegrade.cohorts.oai_files import OaiFiles
from kneegrade.cohorts.oai_films import film_in
from kneegrade.cohorts.readings import Counts, decoded_grades, unique_readings
from kneegrade.errors import CohortError

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
