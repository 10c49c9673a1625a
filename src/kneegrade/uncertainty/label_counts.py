"""Which grades have enough labels to be fitted: those that were read in 50 or more knees of 20 or more people.

A temperature and a bias per class, or a site's map, fitted on fewer knees would follow the chance of these knees and
give confident wrong probabilities to all others.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from kneegrade.schema import TARGETS

MIN_KNEES, MIN_PEOPLE = 50, 20


def knees_read(targets: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    """Grade name → (M,) bool, knees with a label of that grade.

    Args:
        targets: (M, 29) label distributions, NaN where missing.
    """
    return {target.name: np.isfinite(targets[:, target.one_hot]).all(1) for target in TARGETS}


def any_read(targets: NDArray[np.floating], names: Collection[str]) -> NDArray[np.bool_]:
    """(M,) bool, knees with a label of at least one of the grades `names`, of which there is one or more."""
    rows = knees_read(targets)
    read: NDArray[np.bool_] = np.any([rows[name] for name in names], axis=0)
    return read


def suffices(person: NDArray[np.generic], least: tuple[int, int] = (MIN_KNEES, MIN_PEOPLE)) -> bool:
    """Whether knees of these people (one entry a knee) are at least `least` = (knees, people)."""
    return len(person) >= least[0] and len(np.unique(person)) >= least[1]


def grades_with_enough_labels(targets: NDArray[np.floating], subject: NDArray[np.generic]) -> tuple[str, ...]:
    """Names of the grades with labels of at least 50 knees of 20 people, in the order of the schema.

    Args:
        targets: (M, 29) label distributions, NaN where missing.
        subject: (M,) ids of the people.
    """
    return tuple(name for name, rows in knees_read(targets).items() if suffices(subject[rows]))


def without_other_labels(targets: NDArray[np.float32], names: Collection[str]) -> NDArray[np.float32]:
    """(M, 29) a copy of the labels in which only the grades `names` are read; the others are NaN."""
    kept = targets.copy()
    for target in TARGETS:
        if target.name not in names:
            kept[:, target.one_hot] = np.nan
    return kept


def most_read(targets: NDArray[np.floating], subject: NDArray[np.generic]) -> tuple[int, int]:
    """Largest number of labelled knees, and of people with one, of any grade; for messages."""
    rows = knees_read(targets).values()
    return max(int(each.sum()) for each in rows), max(len(np.unique(subject[each])) for each in rows)
