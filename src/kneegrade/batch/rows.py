"""`FilmRows`: the rows of one film, as a worker sends them to the process that writes them."""

from dataclasses import dataclass
from typing import Any

from kneegrade.results import MORE_KNEES

Row = dict[str, Any]


@dataclass(frozen=True)
class FilmRows:
    """The rows of one film: one of `films`, those of `knees` and one of `log`."""

    film: Row
    knees: list[Row]
    log: Row


def is_all_graded(film: Row) -> bool:
    """Whether every knee on a film has grades and none was left out of a picture of several films.

    It decides about the exit code of `batch`, as `Report.all_graded` does for `grade`.

    Args:
        film: a row of `films`, or its `status`, `knees`, `knees_graded` and `warnings`.
    """
    is_graded = film["status"] == "graded" and film["knees"] == film["knees_graded"]
    return is_graded and MORE_KNEES not in film["warnings"]
