"""Readings: one row per knee and visit, decoded from the tables that studies publish.

Columns of readings: `subject_id`, `side` (R or L), `visit` (months), the seven grades (Int64, missing where never
read), per grade `<grade>_missing` (the study's reason, "" where the grade was read), `half_grades` (comma-separated
names of the grades that were half grades and were rounded down), and `file` and `row` (origin).

`kneegrade.cohorts.table_files` reads the tables. A cell of a grade is one of:

- a number: `3`, `3.0`
- a number with its label: `3: 3`, `1: Right`
- a half grade: `1.3`, a change within a grade
- a code for a missing value: `.: Missing Form/Incomplete Workbook`, `.A`, `.T`, or `NA`, `n/a`, `NaN`, `NULL`, `-`
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES, TARGETS

SHOWN_PROBLEMS = 8
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:\s*:.*)?")
_MISSING = re.compile(r"\.([A-Z]?)\s*(?::\s*(.*))?")
NA_TEXTS = frozenset({"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "-", "–"})
SIDE_TEXTS = {"R": ("r", "right", "right knee"), "L": ("l", "left", "left knee")}
_INVALID = "?"  # reason of a cell that is neither a grade nor a code for a missing value


@dataclass
class Counts:
    """Numbers for the summary of a cohort.

    Attributes:
        by_name: description, a noun phrase → how often it occurred.
    """

    by_name: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, number: int = 1) -> None:
        """Add to the number of a description; 0 adds no entry."""
        if number:
            self.by_name[name] += int(number)


@dataclass(frozen=True)
class Problem:
    """An invalid value of a table.

    Attributes:
        file: name of the file.
        row: line number in the file; the header is line 1.
        column: name of the column.
        value: the text that was found.
        expected: description of a valid value.
    """

    file: str
    row: int
    column: str
    value: str
    expected: str

    def __str__(self) -> str:
        """Return the sentence shown to the user."""
        return f"{self.file}, row {self.row}, column {self.column}: {self.value!r}; expected {self.expected}."


def problems_at(cells: pd.Series, wrong: "pd.Series[bool]", file: str, expected: str) -> list[Problem]:
    """Return a problem for every cell of a column where `wrong` is true."""
    rows, texts = cells.index[wrong].tolist(), cells[wrong].tolist()
    return [Problem(file, row, str(cells.name), str(text), expected) for row, text in zip(rows, texts, strict=True)]


def raise_problems(problems: Collection[Problem]) -> None:
    """Raise a CohortError that lists the first `SHOWN_PROBLEMS` problems, if there are any."""
    if problems:
        shown = [str(problem) for problem in list(problems)[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        raise CohortError("\n".join([*shown, *([f"… and {more} more."] if more else [])]))


@dataclass(frozen=True, eq=False)
class DecodedColumn:
    """The decoded cells of one grade.

    Attributes:
        values: (N,) float64 whole grades, NaN where missing; half grades are rounded down.
        reasons: (N,) text, why a value is missing, "" where it is not.
        half: (N,) bool, True where the value was a half grade.
        problems: cells that are neither a grade nor a code for a missing value.
    """

    values: NDArray[np.float64]
    reasons: NDArray[np.object_]
    half: NDArray[np.bool_]
    problems: tuple[Problem, ...]


def decode_column(cells: pd.Series, file: str, highest: int, missing: Collection[int] = ()) -> DecodedColumn:
    """Return the grades 0 … `highest` of a column of text.

    Args:
        cells: text; its name is the column, its index holds the line numbers of the file.
        file: file name for messages.
        highest: highest grade; a half grade above it (3.5 of 3) is rounded down to it.
        missing: numbers that mean "not read" (MOST: 8 and 9).
    """
    decoded = {text: _decode_cell(text, highest, missing) for text in cells.unique()}
    values = cells.map({text: value for text, (value, _, _) in decoded.items()}).to_numpy(dtype=np.float64)
    reasons = cells.map({text: reason for text, (_, reason, _) in decoded.items()}).to_numpy(dtype=object)
    half = cells.map({text: half for text, (_, _, half) in decoded.items()}).to_numpy(dtype=np.bool_)
    expected = f"a grade from 0 to {highest}, or a code for a missing value such as '.A'"
    problems = problems_at(cells, pd.Series(reasons == _INVALID, index=cells.index), file, expected)
    return DecodedColumn(values, reasons, half, tuple(problems))


def _decode_cell(text: str, highest: int, missing: Collection[int]) -> tuple[float, str, bool]:
    """Return (value, reason why it is missing, whether it was a half grade); the reason of a bad cell is `_INVALID`."""
    if not text:
        return np.nan, "empty", False
    if text.casefold() in NA_TEXTS:
        return np.nan, "NA", False
    number = _NUMBER.fullmatch(text)
    if number is None:
        code = _MISSING.fullmatch(text)
        if code is None:
            return np.nan, _INVALID, False
        return np.nan, code[2] or (f".{code[1]}" if code[1] else "."), False
    value = float(number[1])
    if value in missing:
        return np.nan, f"code {int(value)}", False
    whole = float(np.floor(value))
    return (whole, "", whole != value) if 0 <= whole <= highest else (np.nan, _INVALID, False)


def decode_integers(cells: pd.Series, file: str, allowed: Collection[int]) -> tuple[pd.Series, list[Problem]]:
    """Return a column of integers with or without labels (`1: Right`) as Int64, and a problem per value not allowed."""
    numbers = cells.str.extract(r"^(\d+)(?:\.0+)?(?:\s*:.*)?$")[0].astype("Int64")
    expected = "one of " + ", ".join(map(str, sorted(allowed)))
    return numbers, problems_at(cells, ~numbers.isin(allowed).fillna(False), file, expected)


def decode_sides(
    cells: pd.Series, file: str, codes: Mapping[str, str] | None = None
) -> "tuple[pd.Series, pd.Series[bool], list[Problem]]":
    """Return the sides R and L of a column, where it has none, and a problem per cell that is neither.

    A cell is a code, a word (`R`, `Right`, `right knee`) or a code with its label (`1: Right`). A cell that is empty,
    a code for a missing value or `NA` states no side.

    Args:
        cells: text.
        file: file name for messages.
        codes: code → side, in addition to the words.
    """
    known = {word: side for side, words in SIDE_TEXTS.items() for word in words}
    known |= {code.casefold(): side for code, side in (codes or {}).items()}
    texts = cells.str.casefold().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    labels = texts.str.extract(r"^\d+\s*[:=]\s*(.*)$")[0]
    sides = texts.map(known).fillna(labels.map(known)).fillna(texts.str.extract(r"^(\d+)\s*:")[0].map(known))
    absent = [text in ("", *NA_TEXTS) or _MISSING.fullmatch(text.upper()) is not None for text in texts]
    none = sides.isna() & pd.Series(absent, index=cells.index, dtype=bool)
    expected = "one of " + ", ".join([*(codes or {}), "R", "L", "Right", "Left"])
    return sides, none, problems_at(cells, sides.isna() & ~none, file, expected)


def decode_grades(
    table: pd.DataFrame, columns: Mapping[str, str], file: str, counts: Counts, missing: tuple[int, ...] = ()
) -> pd.DataFrame:
    """Return the grades, `<grade>_missing` and `half_grades` of a table of text, with the index of the table.

    Args:
        table: result of `read_table`.
        columns: grade name → column; a grade without a column is never read.
        file: file name for messages.
        counts: half grades and reasons for missing grades are added.
        missing: numbers that mean "not read".

    Raises:
        CohortError: a cell is neither a grade nor a code for a missing value.
    """
    result, problems, half = pd.DataFrame(index=table.index), list[Problem](), np.full(len(table), "", dtype=object)
    for target in TARGETS:
        column = columns.get(target.name)
        if column is None or column not in table.columns:
            result[target.name] = pd.array([pd.NA] * len(table), dtype="Int64")
            result[f"{target.name}_missing"] = "no column"
            counts.add(f"{target.name}: no column", len(table))
            continue
        decoded = decode_column(table[column], file, target.classes - 1, missing)
        problems += decoded.problems
        result[target.name] = pd.array(decoded.values, dtype="Float64").astype("Int64")
        result[f"{target.name}_missing"] = decoded.reasons
        half[decoded.half] = np.where(half[decoded.half] == "", target.name, half[decoded.half] + f",{target.name}")
        counts.add("half grades rounded down", int(decoded.half.sum()))
        for reason, number in Counter(decoded.reasons[decoded.reasons != ""]).items():
            counts.add(f"{target.name}: {reason}", number)
    raise_problems(problems)
    return result.assign(half_grades=half)


def unique_readings(table: pd.DataFrame, key: list[str], counts: Counts) -> pd.DataFrame:
    """Return one row per key; duplicate rows are dropped and counted.

    Raises:
        CohortError: two rows with the same key have different grades. The message names both rows.
    """
    repeated = table[table.duplicated(key, keep=False)]
    problems = []
    for _, group in repeated.groupby(key, sort=False):
        first = group.iloc[0]
        for _, other in group.iloc[1:].iterrows():
            differing = [n for n in TARGET_NAMES if not _equal(first[n], other[n])]
            if differing:
                name = differing[0]
                expected = f"{first[name]}, as in row {first['row']} for the same knee, visit and project"
                problems.append(Problem(other["file"], int(other["row"]), name, str(other[name]), expected))
    raise_problems(problems)
    kept = table.drop_duplicates(key)
    counts.add("duplicate rows, excluded", len(table) - len(kept))
    return kept


def _equal(first: Any, second: Any) -> bool:
    """Return whether two grades are equal; two missing grades are."""
    if pd.isna(first) or pd.isna(second):
        return bool(pd.isna(first) and pd.isna(second))
    return bool(first == second)
