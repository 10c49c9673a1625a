"""Readings: one row per knee and visit, whatever the study; what was odd about each, and how they become a manifest.

Columns: `subject_id`, `side` (R|L), `visit` (months), the seven grades (Int64, missing where never read); per grade
`<grade>_missing` (the study's own reason, "" where read); `half_grades` (names of grades that were half ones, rounded
down); `file` and `row` of origin.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kneegrade.cohorts.coded import Problem, decode, refuse
from kneegrade.schema import TARGET_NAMES, TARGETS

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
