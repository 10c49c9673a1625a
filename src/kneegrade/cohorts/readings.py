"""Readings: one row per knee and visit, whatever the study; what was odd about each, and how they become a manifest.

Columns: `subject_id`, `side` (R|L), `visit` (months), the seven grades (Int64, missing where never read); per grade
`<grade>_missing` (the study's own reason, "" where read); `half_grades` (names of grades that were half ones, rounded
down); `file` and `row` of origin.

Tables as studies publish them: text of any separator, SAS files, coded values, codes for what is missing.

A value may be a number (`3`, `3.0`), a number with its label (`3: 3`, `1: Right`), a half grade (`1.3`, a change within
a grade), or a code that says why there is none (`.: Missing Form/Incomplete Workbook`, `.A`, `.T`).
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES, TARGETS

SEPARATORS = ("|", "\t", ";", ",")
SHOWN_PROBLEMS = 8
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:\s*:.*)?")
_MISSING = re.compile(r"\.([A-Z]?)\s*(?::\s*(.*))?")


@dataclass(frozen=True)
class Problem:
    """One value that cannot be what it should be; `row` counts lines of the file, the header being 1."""

    file: str
    row: int
    column: str
    value: str
    expected: str

    def __str__(self) -> str:
        """The sentence a researcher reads."""
        return f"{self.file}, row {self.row}, column {self.column}: {self.value!r}; expected {self.expected}."


def refuse(problems: Collection[Problem]) -> None:
    """Raise a CohortError that names the first of them, if there are any."""
    if problems:
        shown = [str(problem) for problem in list(problems)[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        raise CohortError("\n".join([*shown, *([f"… and {more} more."] if more else [])]))


def problems_at(cells: pd.Series, wrong: "pd.Series[bool]", file: str, expected: str) -> list[Problem]:
    """A problem for every cell of a column that is wrong."""
    rows, texts = cells.index[wrong].tolist(), cells[wrong].tolist()
    return [Problem(file, row, str(cells.name), str(text), expected) for row, text in zip(rows, texts, strict=True)]


def read_table(path: Path) -> pd.DataFrame:
    """All cells as stripped text, columns upper-case, the line in the file as index ("row", the header being 1).

    Text is Latin-1 unless it is valid UTF-8; the separator is whichever of `|`, tab, `;`, `,` the header has most of,
    and quotes mean something only beside the last two. `.sas7bdat` is read by pandas; numbers become text as a text
    file has them, missing ones ".".

    Raises:
        CohortError: an unreadable file, a line with more or fewer cells than the header, or a column that occurs twice.
    """
    try:
        if path.suffix.lower() == ".sas7bdat":
            table = _as_text(pd.read_sas(path, format="sas7bdat", encoding="latin-1"))
            table.index = pd.RangeIndex(2, len(table) + 2)
        else:
            table = _from_text(path.read_bytes())
    except (OSError, ValueError, csv.Error) as error:
        raise CohortError(f"{path.name} cannot be read as a table: {error}.") from error
    table.columns = pd.Index([str(column).strip().upper() for column in table.columns])
    table.index.name = "row"
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise CohortError(f"{path.name} has the column {twice[0]} twice.")
    return table


def _from_text(data: bytes) -> pd.DataFrame:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator in "|\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    header = next(reader, [])
    lines, cells = [], []
    for row in reader:
        kept = row[:-1] if len(row) == len(header) + 1 and not row[-1].strip() else row  # a separator at the line's end
        if not any(cell.strip() for cell in kept):
            continue
        if len(kept) != len(header):
            raise ValueError(f"line {reader.line_num} has {len(kept)} cells, the header {len(header)}")
        lines.append(reader.line_num)
        cells.append([cell.strip() for cell in kept])
    return pd.DataFrame(cells, columns=header, index=pd.Index(lines, dtype="int64"), dtype=str)


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    def text(value: object) -> str:
        if value is None or value != value:
            return "."
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    worded: pd.DataFrame = table.apply(lambda column: column.map(text))
    return worded


@dataclass(frozen=True, eq=False)
class Coded:
    """A column, decoded.

    Attributes:
        values: (N,) float64, NaN where missing; half grades are whole (rounded down).
        reasons: (N,) why a value is missing, "" where it is not.
        half: (N,) bool, the value was a half grade.
        problems: values that are neither.
    """

    values: NDArray[np.float64]
    reasons: NDArray[np.object_]
    half: NDArray[np.bool_]
    problems: tuple[Problem, ...]


def decode(cells: pd.Series, file: str, highest: int, missing: Collection[int] = ()) -> Coded:
    """The grades of a column of text, 0 … `highest`.

    Args:
        cells: text, named like the column, its index the lines of the file.
        file: name for messages.
        highest: largest grade; half grades above it (3.5 of 3) belong to it.
        missing: numbers that stand for "not read" (MOST: 8 and 9).
    """
    known = {text: _decoded(text, highest, missing) for text in cells.unique()}
    values = cells.map({text: value for text, (value, _, _) in known.items()}).to_numpy(dtype=np.float64)
    reasons = cells.map({text: reason for text, (_, reason, _) in known.items()}).to_numpy(dtype=object)
    half = cells.map({text: half for text, (_, _, half) in known.items()}).to_numpy(dtype=np.bool_)
    expected = f"a grade from 0 to {highest}, or a code for missing such as '.A'"
    problems = problems_at(cells, pd.Series(reasons == "?", index=cells.index), file, expected)
    return Coded(values, reasons, half, tuple(problems))


def _decoded(text: str, highest: int, missing: Collection[int]) -> tuple[float, str, bool]:
    """(value, reason it is missing, whether a half grade); the reason "?" means neither grade nor code."""
    if not text:
        return np.nan, "empty", False
    number = _NUMBER.fullmatch(text)
    if number is None:
        code = _MISSING.fullmatch(text)
        if code is None:
            return np.nan, "?", False
        return np.nan, code[2] or (f".{code[1]}" if code[1] else "."), False
    value = float(number[1])
    if value in missing:
        return np.nan, f"code {int(value)}", False
    whole = float(np.floor(value))
    return (whole, "", whole != value) if 0 <= whole <= highest else (np.nan, "?", False)


def whole_numbers(cells: pd.Series, file: str, allowed: Collection[int]) -> tuple[pd.Series, list[Problem]]:
    """A column of whole numbers with or without labels (`1: Right`), as Int64, and the values that are not allowed."""
    numbers = cells.str.extract(r"^(\d+)(?:\.0+)?(?:\s*:.*)?$")[0].astype("Int64")
    expected = "one of " + ", ".join(map(str, sorted(allowed)))
    return numbers, problems_at(cells, ~numbers.isin(allowed).fillna(False), file, expected)


ORIGIN = ("file", "row")


@dataclass
class Counts:
    """What was met on the way, for the summary: name of the oddity → how often."""

    met: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, number: int = 1) -> None:
        """Count an oddity."""
        if number:
            self.met[name] += int(number)


def decoded_grades(
    table: pd.DataFrame, columns: Mapping[str, str], file: str, counts: Counts, missing: tuple[int, ...] = ()
) -> pd.DataFrame:
    """Grades, `<grade>_missing` and `half_grades` of a table of text, on its index.

    Args:
        table: as `read_table` gives it.
        columns: grade name → column; a grade or a column that is not there counts as never read.
        file: name for messages.
        counts: half grades and reasons are added.
        missing: numbers that stand for "not read".

    Raises:
        CohortError: a value that is neither a grade nor a code.
    """
    result, problems, half = pd.DataFrame(index=table.index), list[Problem](), np.full(len(table), "", dtype=object)
    for target in TARGETS:
        column = columns.get(target.name)
        if column is None or column not in table.columns:
            result[target.name] = pd.array([pd.NA] * len(table), dtype="Int64")
            result[f"{target.name}_missing"] = "no column"
            counts.add(f"{target.name}: no column", len(table))
            continue
        coded = decode(table[column], file, target.classes - 1, missing)
        problems += coded.problems
        result[target.name] = pd.array(coded.values, dtype="Float64").astype("Int64")
        result[f"{target.name}_missing"] = coded.reasons
        half[coded.half] = np.where(half[coded.half] == "", target.name, half[coded.half] + f",{target.name}")
        counts.add("half grades rounded down", int(coded.half.sum()))
        for reason, number in Counter(coded.reasons[coded.reasons != ""]).items():
            counts.add(f"{target.name}: {reason}", number)
    refuse(problems)
    return result.assign(half_grades=half)


def unique_readings(table: pd.DataFrame, key: list[str], counts: Counts) -> pd.DataFrame:
    """One row per key: equal repetitions dropped and counted, contradicting ones refused.

    Raises:
        CohortError: two rows of one key with different grades; the sentence names both.
    """
    repeated = table[table.duplicated(key, keep=False)]
    problems = []
    for _, group in repeated.groupby(key, sort=False):
        first = group.iloc[0]
        for _, other in group.iloc[1:].iterrows():
            differing = [n for n in TARGET_NAMES if not _same(first[n], other[n])]
            if differing:
                name = differing[0]
                expected = f"{first[name]}, as in row {first['row']} for the same knee, visit and project"
                problems.append(Problem(other["file"], int(other["row"]), name, str(other[name]), expected))
    refuse(problems)
    kept = table.drop_duplicates(key)
    counts.add("rows that repeat another, dropped", len(table) - len(kept))
    return kept


def _same(first: Any, second: Any) -> bool:
    if pd.isna(first) or pd.isna(second):
        return bool(pd.isna(first) and pd.isna(second))
    return bool(first == second)
