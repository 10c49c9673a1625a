"""Agreement of readers with each other, with themselves and with kneegrade, per grade, with bootstrap intervals.

Readings are a table with one row per knee and reading: `film`, `knee`, `subject_id`, `reader`, `repeat` (0, from 1 for
repeated readings of the same reader), the seven grades (missing where not read) and `gradable` (0 or 1). Two readings
are compared on the knees that both graded. People are resampled for the intervals, as their two knees are similar; with
fewer than `MIN_PEOPLE` people there are none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError
from kneegrade.evaluation.bootstrap import SubjectBootstrap, interval
from kneegrade.evaluation.metrics import matrix_metrics
from kneegrade.schema import TARGETS

GRADABLE: Final = "gradable"
CLASSES: Final = {**{target.name: target.classes for target in TARGETS}, GRADABLE: 2}
COLUMNS: Final = ("film", "knee", "subject_id", "reader", "repeat", *CLASSES)
FILM_COLUMNS: Final = ("image_path", "subject_id", "side", "visit")  # by which a row is joined with other tables
METRICS: Final = ("kappa", "accuracy", "one_off_accuracy")
MIN_KNEES: Final = 2
MIN_PEOPLE: Final = 10  # for intervals: a bootstrap over fewer people says nothing


@dataclass(frozen=True)
class PairAgreement:
    """Agreement of two readings on one grade.

    Attributes:
        grade: name of the grade, or "gradable".
        first: rater, "NAME" or "NAME, repeat N".
        second: rater.
        knees: number of knees that both graded.
        people: number of people whose knees these are.
        kappa: quadratic-weighted kappa with its 95 % interval; NaN where both always give the same single grade. The
            limits of all intervals are NaN with fewer than `MIN_PEOPLE` people.
        accuracy: share of equal grades, with its interval.
        one_off_accuracy: share of knees at most one grade apart, with its interval.
        difference: mean of second − first, with its interval.
    """

    grade: str
    first: str
    second: str
    knees: int
    people: int
    kappa: tuple[float, float, float]
    accuracy: tuple[float, float, float]
    one_off_accuracy: tuple[float, float, float]
    difference: tuple[float, float, float]

    def as_row(self) -> dict[str, Any]:
        """The values as cells of a table; None where undefined."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("grade", "first", "second", "knees", "people")}
        for name in (*METRICS, "difference"):
            values = [round(v, 4) if np.isfinite(v) else None for v in getattr(self, name)]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        return row


def load_readings(path: Path) -> pd.DataFrame:
    """The readings of a table such as `readings.csv`, with numbers as Int64.

    Raises:
        CohortError: the file cannot be read, a column is missing, or a grade is not on its scale.
    """
    text = read_table(path)
    missing = [name for name in (*COLUMNS[:4], "kl") if name.upper() not in text.columns]
    if missing:
        raise CohortError(
            f"{path.name} lacks the columns {', '.join(missing)}; give readings.csv of the reader's page."
        )
    table = pd.DataFrame({name: text[name.upper()] for name in text.columns.str.lower()})
    return checked_readings(table, path.name)


def checked_readings(table: pd.DataFrame, name: str = "readings") -> pd.DataFrame:
    """The columns `COLUMNS`, `FILM_COLUMNS` and `study` of a table of readings, with numbers as Int64.

    Texts that the table lacks are empty.

    Raises:
        CohortError: a grade is not on its scale.
    """
    result = pd.DataFrame({key: table[key].astype(str) for key in ("film", "subject_id", "reader")})
    for column in ("study", *FILM_COLUMNS):
        result[column] = table[column].astype(str) if column in table.columns else ""
    for column in ("knee", "repeat", *CLASSES):
        absent = pd.Series([0 if column in ("knee", "repeat") else None] * len(table), index=table.index)
        values = table[column] if column in table.columns else absent
        result[column] = pd.to_numeric(values.replace("", None), errors="coerce").astype("Int64")
    for grade, classes in CLASSES.items():
        wrong = result[grade].notna() & ~result[grade].isin(range(classes))
        if wrong.any():
            row = int(np.flatnonzero(wrong.to_numpy(dtype=bool))[0])
            raise CohortError(
                f"{name}, column {grade}: {result[grade].iloc[row]} is outside the scale 0 to {classes - 1}."
            )
    return result.fillna({"repeat": 0, "knee": 0})


def rater_names(readings: pd.DataFrame) -> "pd.Series[str]":
    """The rater of each row: the reader, and the number of the repeat from 1."""
    repeats = ", repeat " + readings["repeat"].astype(str)
    return readings["reader"].where(readings["repeat"] == 0, readings["reader"] + repeats)


def pairwise_agreement(readings: pd.DataFrame, replicates: int = 1000, seed: int = 0) -> list[PairAgreement]:
    """The agreement of all pairs of raters on all grades, in the order of grades and of names.

    Repeats are compared with the first reading of the same reader only. A pair is left out of a grade with fewer than
    two knees that both graded.

    Args:
        readings: from `load_readings` or `checked_readings`.
        replicates: number of bootstrap samples.
        seed: of the resampling.

    Raises:
        CohortError: there are no two raters of the same knees.
    """
    table = readings.assign(rater=rater_names(readings))
    found = [
        agreement
        for grade in CLASSES
        for first, second in _pairs(table)
        if (agreement := _pair(table, grade, first, second, replicates, seed)) is not None
    ]
    if not found:
        raise CohortError("No two raters graded the same knees; at least two readings of the same knees are needed.")
    return found


def _pairs(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    readers = sorted(table.loc[table["repeat"] == 0, "reader"].unique(), key=lambda name: (name == "kneegrade", name))
    yield from combinations(readers, 2)
    repeats = table[table["repeat"] > 0]
    yield from sorted(set(zip(repeats["reader"], repeats["rater"], strict=True)))


def _pair(table: pd.DataFrame, grade: str, first: str, second: str, replicates: int, seed: int) -> PairAgreement | None:
    key = ["film", "knee"]
    own = [
        table.loc[(table["rater"] == rater) & table[grade].notna(), [*key, "subject_id", grade]]
        for rater in (first, second)
    ]
    both = own[0].merge(own[1].drop(columns="subject_id"), on=key, suffixes=("_1", "_2")).sort_values(key)
    if len(both) < MIN_KNEES:
        return None
    one, two = (both[f"{grade}_{i}"].to_numpy(dtype=np.int64) for i in (1, 2))
    bootstrap = SubjectBootstrap(both["subject_id"].to_numpy(dtype=str), replicates, seed)
    matrices = np.zeros((len(both), CLASSES[grade], CLASSES[grade]))
    matrices[np.arange(len(both)), one, two] = 1
    metrics = matrix_metrics(bootstrap.sums(matrices))
    difference = (
        bootstrap.sums((two - one).astype(np.float64)[:, None])[:, 0] / bootstrap.sums(np.ones((len(both), 1)))[:, 0]
    )
    people = both["subject_id"].nunique()
    has_interval = people >= MIN_PEOPLE
    values = {name: interval(metrics[name]) for name in METRICS} | {"difference": interval(difference)}
    shown = {name: value if has_interval else (value[0], np.nan, np.nan) for name, value in values.items()}
    return PairAgreement(grade, first, second, len(both), people, **shown)


def disagreements(readings: pd.DataFrame, without: Sequence[str] = ("kneegrade",)) -> pd.DataFrame:
    """The knees and grades on which readers differ in their first readings.

    The columns are film, knee, those of `FILM_COLUMNS`, grade, and one per reader. The side is that of kneegrade, else
    that of the first reader.

    Args:
        readings: from `load_readings` or `checked_readings`.
        without: raters that do not count, though they have a column.
    """
    first = readings[readings["repeat"] == 0]
    rows = []
    for (film, knee), group in first.groupby(["film", "knee"], sort=True):
        by_rater = group.sort_values("reader", key=lambda names: names != "kneegrade", kind="stable")
        named = {column: by_rater[column].iloc[0] for column in FILM_COLUMNS}
        for grade in CLASSES:
            given = dict(zip(group["reader"], group[grade], strict=True))
            values = {v for reader, v in given.items() if reader not in without and not pd.isna(v)}
            if len(values) > 1:
                rows.append({"film": film, "knee": knee, **named, "grade": grade, **given})
    readers = sorted(first["reader"].unique())
    return pd.DataFrame(rows, columns=["film", "knee", *FILM_COLUMNS, "grade", *readers])
