"""Multicenter Osteoarthritis Study (MOST): table and films of a download.

The table `mostv01235xray` has one row per person and the columns `V{0,1,2,3,5}X{L|R}{KL,JSL,…}`. 8 and 9 mean "not
read", the letters P, S, X and Z give other reasons, and 1.9 and the like are half grades. A text table that was renamed
is recognised by its columns. Films of the PA 10° view lie in `<MOSTID>…/V<visit>…/…PA10…/<file>`, in any case.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from kneegrade.cohorts.oai_film_lists import is_hidden
from kneegrade.cohorts.readings import Counts, decode_grades, problems_at, raise_problems
from kneegrade.cohorts.table_files import TEXT_TABLE, read_header, read_table
from kneegrade.errors import CohortError

READING_TABLE = re.compile(r"mostv01235xray\.(txt|csv|tsv|sas7bdat)", re.IGNORECASE)
READING_COLUMN = re.compile(r"V[01235]X[RL]KL")
PERSON = re.compile(r"M[A-Z]\d{5}", re.IGNORECASE)
VISIT = re.compile(r"V([01235])(?!\d)", re.IGNORECASE)
VISIT_MONTHS = {"0": 0, "1": 15, "2": 30, "3": 60, "5": 84}
GRADE_COLUMNS = {
    "kl": "KL", "jsn_lateral": "JSL", "jsn_medial": "JSM", "osteophyte_femur_lateral": "OSFL",
    "osteophyte_femur_medial": "OSFM", "osteophyte_tibia_lateral": "OSTL", "osteophyte_tibia_medial": "OSTM",
}  # fmt: skip
MISSING_NUMBERS = (8, 9)
MISSING_LETTERS = ("P", "S", "X", "Z")
VIEW_FOLDER = "PA10"


def most_readings(root: Path, counts: Counts | None = None) -> pd.DataFrame:
    """Return the readings of the table below `root`, one row per knee and visit, with and without grades.

    Args:
        root: folder of a download.
        counts: numbers of rows, half grades and missing grades are added.

    Raises:
        CohortError: the table or a column is missing, or a value is invalid. The message names file, row and column.
    """
    counts = Counts() if counts is None else counts
    path = _table_of(root)
    table = read_table(path)
    if "MOSTID" not in table.columns:
        raise CohortError(f"{path.name} lacks the column MOSTID.")
    table["MOSTID"] = table["MOSTID"].str.upper()
    raise_problems(problems_at(table["MOSTID"], table["MOSTID"].duplicated(), path.name, "one row per person"))
    counts.add("rows read", len(table))
    coded = table.replace({letter: f".{letter}" for letter in MISSING_LETTERS})
    parts = []
    for visit, months in VISIT_MONTHS.items():
        for side in ("R", "L"):
            columns = {name: f"V{visit}X{side}{end}" for name, end in GRADE_COLUMNS.items()}
            if not any(column in table.columns for column in columns.values()):
                continue
            grades = decode_grades(coded, columns, path.name, counts, MISSING_NUMBERS)
            knees = grades.assign(subject_id=table["MOSTID"], side=side, visit=months)
            parts.append(knees.assign(file=path.name, row=table.index))
    if not parts:
        raise CohortError(f"{path.name} has none of the columns V0XRKL … V5XLOSTM.")
    return pd.concat(parts, ignore_index=True)


def _table_of(root: Path) -> Path:
    """The table of readings: by its name, text before SAS, else a text table that has its columns.

    Raises:
        CohortError: there is none.
    """
    texts = []
    named = []
    for path in sorted(p for p in root.rglob("*") if not is_hidden(p.name)):
        if READING_TABLE.fullmatch(path.name):
            named.append(path)
        elif TEXT_TABLE.fullmatch(path.name) and path.is_file():
            texts.append(path)
    named.sort(key=lambda path: path.suffix.lower() == ".sas7bdat")
    if named:
        return named[0]
    for path in texts:
        header = read_header(path)
        if "MOSTID" in header and any(READING_COLUMN.fullmatch(name) for name in header):
            return path
    raise CohortError(f"{root} contains no table mostv01235xray (.txt, .csv or .sas7bdat).")


def most_films(root: Path, counts: Counts | None = None) -> pd.DataFrame:
    """Return the PA 10° films below `root`: `subject_id`, `visit` (months), `path`, `view`; one per person and visit.

    Args:
        root: folder of a download.
        counts: the number of further films of a visit is added; the first by name is used.

    Raises:
        CohortError: there is no such film.
    """
    counts = Counts() if counts is None else counts
    rows, seen = [], Counter[str]()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not is_hidden(p.name)):
        folders = path.relative_to(root).parts[:-1]
        people = [match[0].upper() for part in folders if (match := PERSON.match(part))]
        visits = [match[1] for part in folders if (match := VISIT.match(part))]
        is_view = any(VIEW_FOLDER in part.upper() for part in folders)
        is_visit = bool(people and visits)
        is_film = is_visit and is_view
        seen.update(person=bool(people), visit=is_visit, all=is_film)
        if is_film and "__MACOSX" not in folders:
            rows.append({"subject_id": people[0], "visit": VISIT_MONTHS[visits[0]], "path": str(path), "view": "PA"})
    if not rows:
        raise CohortError(
            f"{root} contains no films. Expected files <MOSTID>…/V<visit>…/…{VIEW_FOLDER}…/<file>, such as "
            f"MB00001/V0/{VIEW_FOLDER}/00001.dcm. {seen['person']} files lie in the folder of a person, "
            f"{seen['visit']} of them in the folder of a visit, {seen['all']} of them in a folder of the view."
        )
    films = pd.DataFrame(rows)
    kept = films.drop_duplicates(["subject_id", "visit"])
    counts.add("further films of a visit, excluded", len(films) - len(kept))
    return kept
