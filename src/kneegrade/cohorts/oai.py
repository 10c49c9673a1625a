"""Osteoarthritis Initiative: central readings of knee radiographs (`kXR_SQ_BU##`), their films, the manifest.

Tables: pipe-separated text, Latin-1, CRLF, or `.sas7bdat`; a row per (ID, SIDE, READPRJ). Project 15 read visits up
to 48 months, project 37 those at 72 and 96 (42 counts as 37); some early films were read again. Films: `contents.csv`
per release lists folders by participant and series; the barcode of a reading names its film.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade.cohorts.coded import problems_at, read_table, refuse, whole_numbers
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
TABLE = re.compile(r"kxr_sq_bu(\d\d)\.(txt|csv|sas7bdat)", re.IGNORECASE)
BARCODE_DIGITS = 12
FILM_NAMES = ("001", "001.dcm", "00001")


def oai_readings(root: Path, visits: Iterable[str] | None = None, counts: Counts | None = None) -> pd.DataFrame:
    """The readings of all tables below `root`, one row per knee and visit, with `project` and `barcode`.

    Args:
        root: folder that holds the tables at any depth.
        visits: codes ("00", "01", …) to keep; all by default.
        counts: what was met is added.

    Raises:
        CohortError: no table, an unknown visit, a missing column or a value that cannot be, by file, row and column.
    """
    counts = Counts() if counts is None else counts
    wanted = set(MONTHS if visits is None else visits)
    if wanted - set(MONTHS):
        raise CohortError(f"Visits {', '.join(sorted(wanted - set(MONTHS)))}; the OAI has {', '.join(MONTHS)}.")
    found = _tables(root)
    chosen = {code: path for code, path in found.items() if code in wanted}
    if not chosen:
        raise CohortError(f"{root} holds no table kXR_SQ_BU##.txt of visits {', '.join(sorted(wanted))}.")
    parts = [_visit(path, code, counts) for code, path in sorted(chosen.items())]
    return pd.concat(parts, ignore_index=True)


def _tables(root: Path) -> dict[str, Path]:
    """Visit code → its table, text before SAS where both are there."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.rglob("*") if TABLE.fullmatch(p.name)):
        match = TABLE.fullmatch(path.name)
        code = match[1] if match else ""
        if code in MONTHS and (code not in found or found[code].suffix.lower() == ".sas7bdat"):
            found[code] = path
    return found


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
        subject_id=table["ID"].str[:7], side=np.where(side == 1, "R", "L"), visit=MONTHS[code], project=project,
        barcode=_barcodes(table[barcode]), file=path.name, row=table.index,
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


def oai_films(root: Path) -> pd.DataFrame:
    """The bilateral knee films below `root`: `barcode` (twelve digits), `subject_id`, `path`, `view`.

    Every `contents.csv` is read; its folders are taken from its own place. Where two releases list one film, the first
    that is on disk is kept.

    Raises:
        CohortError: no `contents.csv`, or one that lacks a column.
    """
    files = sorted(p for p in root.rglob("*") if p.name.lower() == "contents.csv")
    if not files:
        raise CohortError(f"{root} holds no contents.csv; the OAI's image releases bring one each.")
    parts = []
    for file in files:
        table = read_table(file)
        lacking = [name for name in ("FOLDER", "PARTICIPANTID", "BARCODE", "SERIESDESCRIPTION") if name not in table]
        if lacking:
            raise CohortError(f"{file} lacks the columns {', '.join(lacking)}.")
        knees = table[table["SERIESDESCRIPTION"] == SERIES]
        paths = [_film(file.parent, folder) for folder in knees["FOLDER"]]
        parts.append(
            pd.DataFrame(
                {
                    "barcode": _barcodes(knees["BARCODE"]).to_numpy(),
                    "subject_id": knees["PARTICIPANTID"].str[:7].to_numpy(),
                    "path": [None if path is None else str(path) for path in paths],
                }
            )
        )
    films = pd.concat(parts, ignore_index=True)
    films = films.assign(absent=films["path"].isna()).sort_values(["barcode", "absent"], kind="stable")
    return films.drop_duplicates("barcode").drop(columns="absent").assign(view="PA")


def _film(root: Path, folder: str) -> Path | None:
    """The film in a folder of a release: `001`, or the only file."""
    place = root / folder.replace("\\", "/")
    for name in FILM_NAMES:
        if (place / name).is_file():
            return place / name
    files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    return files[0] if len(files) == 1 else None
