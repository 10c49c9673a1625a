"""Multicenter Osteoarthritis Study: readings in one row per person (`mostv01235xray`), films of the PA 10° view.

Columns `V{0,1,2,3,5}X{L|R}{KL,JSL,…}`; 8 and 9 stand for "not read", letters (P, S, X, Z) for other reasons, 1.9 and
the like are half grades. Films lie in `<MOSTID>…/V<visit>…/…PA10…/<file>`.
"""

import re
from pathlib import Path

import pandas as pd

from kneegrade.cohorts.readings import Counts, decoded_grades, problems_at, read_table, refuse
from kneegrade.errors import CohortError

MONTHS = {"0": 0, "1": 15, "2": 30, "3": 60, "5": 84}
COLUMNS = {
    "kl": "KL", "jsn_lateral": "JSL", "jsn_medial": "JSM", "osteophyte_femur_lateral": "OSFL",
    "osteophyte_femur_medial": "OSFM", "osteophyte_tibia_lateral": "OSTL", "osteophyte_tibia_medial": "OSTM",
}  # fmt: skip
TABLE = re.compile(r"mostv01235xray\.(txt|csv|sas7bdat)", re.IGNORECASE)
MISSING = (8, 9)
LETTERS = ("P", "S", "X", "Z")
VIEW = "PA10"


def most_readings(root: Path, counts: Counts | None = None) -> pd.DataFrame:
    """The readings of the table below `root`, one row per knee and visit, graded or not.

    Raises:
        CohortError: no table, a missing column or a value that cannot be, by file, row and column.
    """
    counts = Counts() if counts is None else counts
    found = sorted(p for p in root.rglob("*") if TABLE.fullmatch(p.name))
    if not found:
        raise CohortError(f"{root} holds no table mostv01235xray (.txt, .csv or .sas7bdat).")
    path = next((p for p in found if p.suffix.lower() != ".sas7bdat"), found[0])
    table = read_table(path)
    if "MOSTID" not in table.columns:
        raise CohortError(f"{path.name} lacks the column MOSTID.")
    refuse(problems_at(table["MOSTID"], table["MOSTID"].duplicated(), path.name, "one row per person"))
    counts.add("rows read", len(table))
    lettered = table.replace({letter: f".{letter}" for letter in LETTERS})
    parts = []
    for visit, months in MONTHS.items():
        for side in ("R", "L"):
            columns = {name: f"V{visit}X{side}{end}" for name, end in COLUMNS.items()}
            if not any(column in table.columns for column in columns.values()):
                continue
            grades = decoded_grades(lettered, columns, path.name, counts, MISSING)
            who = grades.assign(subject_id=table["MOSTID"], side=side, visit=months)
            parts.append(who.assign(file=path.name, row=table.index))
    if not parts:
        raise CohortError(f"{path.name} has none of the columns V0XRKL … V5XLOSTM.")
    return pd.concat(parts, ignore_index=True)


def most_films(root: Path, counts: Counts | None = None) -> pd.DataFrame:
    """The PA 10° films below `root`: `subject_id`, `visit` (months), `path`, `view`; the first of several in a folder.

    Raises:
        CohortError: no such film.
    """
    counts = Counts() if counts is None else counts
    rows = []
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith((".", "Thumbs", "desktop"))):
        folders = path.relative_to(root).parts[:-1]
        people = [match[0] for part in folders if (match := re.match(r"M[A-Z]\d{5}", part))]
        visits = [match[1] for part in folders if (match := re.match(r"V([01235])(?!\d)", part, re.IGNORECASE))]
        if people and visits and any(VIEW in part.upper() for part in folders):
            rows.append({"subject_id": people[0], "visit": MONTHS[visits[0]], "path": str(path), "view": "PA"})
    if not rows:
        raise CohortError(f"{root} holds no films <MOSTID>…/V<visit>…/…{VIEW}…/<file>.")
    films = pd.DataFrame(rows)
    kept = films.drop_duplicates(["subject_id", "visit"])
    counts.add("films beside another of the same visit, left out", len(films) - len(kept))
    return kept
