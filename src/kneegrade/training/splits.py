"""Splits: the knees of a dataset that a run trains on, with and without labels, calibrates on, and is scored on."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence import most_probable_grades
from kneegrade.errors import RecipeError
from kneegrade.training.config import Data
from kneegrade.training.dataset import KneeDataset

Rows = NDArray[np.int64]
DIVISION = "sha256"  # name of the method of `in_first_group` in descriptions of weights


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a dataset by their use in a run. No subject is in two of training, `calibration` and `test`.

    Attributes:
        labelled: trained on with all the grades that they have.
        unlabelled: trained on without labels, either because they have none or because of `data.labelled_share`.
        calibration: never trained on; used to fit the calibration and to select models.
        test: scored once, at the end; may be empty.
    """

    labelled: Rows
    unlabelled: Rows
    calibration: Rows
    test: Rows


def make_splits(dataset: KneeDataset, data: Data) -> Splits:
    """The splits that a recipe requests; a function of the dataset, the shares and `split_seed` alone.

    The paper splits by subject 2:1:1 and does not describe how 20 or 40 % of the labels were selected.

    Args:
        dataset: knees with the splits of their manifests.
        data: section of the recipe.

    Raises:
        RecipeError: the test knees would be trained on or calibrated with.
    """
    if data.test_split == "train" or (data.test_split == "val" and data.calibration_share is None):
        raise RecipeError(
            f"data.test_split={data.test_split}: these knees are trained on or calibrated with; name another split, or "
            "set data.calibration_share."
        )
    rows = np.flatnonzero(dataset.split == "train")
    has_label = np.asarray(np.isfinite(dataset.targets).any(axis=1))
    test = np.flatnonzero((dataset.split == data.test_split) & has_label)
    if data.calibration_share is None:
        calibration = np.flatnonzero((dataset.split == "val") & has_label)
    else:
        subjects = _calibration_subjects(dataset, rows, data.calibration_share, data.split_seed)
        held_out = np.isin(dataset.subject[rows], subjects)
        rows, calibration = rows[~held_out], rows[held_out][has_label[rows[held_out]]]
    candidates = rows[has_label[rows]]
    labelled = candidates[_in_first_share(dataset, candidates, data.labelled_share, data.split_seed)]
    return Splits(labelled, np.setdiff1d(rows, labelled) if data.unlabelled else rows[:0], calibration, test)


def _calibration_subjects(dataset: KneeDataset, rows: Rows, share: float, seed: int) -> NDArray[np.str_]:
    """A random `share` of the subjects of each source."""
    generator = np.random.default_rng(seed)
    chosen = []
    for source in np.unique(dataset.source[rows]):
        subjects = np.unique(dataset.subject[rows][dataset.source[rows] == source])
        chosen.append(generator.permutation(subjects)[: round(len(subjects) * share)])
    return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.str_)


def _in_first_share(dataset: KneeDataset, rows: Rows, share: float, seed: int) -> NDArray[np.bool_]:
    """(len(rows),) bool, knees of the first `share` of the subjects.

    Subjects are shuffled once, stratified by the severity of their most severe knee. Every share therefore has the same
    distribution of severity and is a subset of every larger share.
    """
    subjects, index = np.unique(dataset.subject[rows], return_inverse=True)
    worst = np.zeros(len(subjects), dtype=np.int64)
    np.maximum.at(worst, index, severity(dataset.targets[rows]))
    order = np.random.default_rng([seed, 1]).permutation(len(subjects))
    chosen = np.zeros(len(subjects), dtype=np.bool_)
    for stratum in np.unique(worst):
        members = order[worst[order] == stratum]
        chosen[members[: round(len(members) * share)]] = True
    return chosen[index]


def severity(targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) the KL grade if it was read, else the highest of the other grades; 0 for a knee without any grade.

    Args:
        targets: (N, 29) distributions, NaN where missing.
    """
    grades = most_probable_grades(targets)
    return np.where(grades[:, 0] >= 0, grades[:, 0], np.maximum(grades[:, 1:].max(axis=1), 0))


class EndlessSampler:
    """An endless sequence of the same rows, one permutation after the other; item i is a function of (seed, i).

    Args:
        rows: at least one.
        seed: any sequence of numbers.
    """

    def __init__(self, rows: Rows, seed: list[int]) -> None:
        self.rows, self.seed = rows, seed
        self._permutations: dict[int, Rows] = {}

    def batch(self, number: int, size: int) -> Rows:
        """Items number·size … (number + 1)·size − 1."""
        return np.concatenate(list(self._pieces(number * size, (number + 1) * size)))

    def _pieces(self, start: int, stop: int) -> Iterator[Rows]:
        length = len(self.rows)
        for number in range(start // length, (stop - 1) // length + 1):
            first, last = max(start - number * length, 0), min(stop - number * length, length)
            yield self._permutation(number)[first:last]

    def _permutation(self, number: int) -> Rows:
        """Permutation `number` of the rows; the last two are cached."""
        if number not in self._permutations:
            order = np.random.default_rng([*self.seed, number]).permutation(self.rows)
            recent = {key: rows for key, rows in self._permutations.items() if key >= number - 1}
            self._permutations = recent | {number: order}
        return self._permutations[number]


def in_first_group(subject: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) bool, knees of the subjects in the first of two groups, which has about `share` of the subjects.

    The group of a subject is a hash of its id and the seed, so it does not depend on the other subjects.

    Args:
        subject: (N,) ids.
        share: 0 … 1.
        seed: another seed gives another division.
    """
    subjects, index = np.unique(subject, return_inverse=True)
    first = [_hash_position(f"{seed}:{one}") < share for one in subjects]
    return np.array(first, dtype=np.bool_)[index]


def _hash_position(text: str) -> float:
    """A number in [0, 1), by a hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def hashed_subject(person: str) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a subject's id, as in `fitted_people` of a description."""
    return hashlib.sha256(person.encode()).hexdigest()[:8]


def left_out(description: Mapping[str, Any], subject: NDArray[np.str_]) -> NDArray[np.bool_]:
    """(N,) bool, knees of subjects that calibration, prediction sets and quality control were not fitted on.

    A part of the description that states its `division` was fitted on the subjects of `in_first_group`; other parts
    were fitted on the subjects listed in `fitted_people`.

    Args:
        description: of a grader's weights, i.e. their sidecar.
        subject: (N,) ids of knees of the split that `calibrate` and `quality-control` divided.

    Raises:
        RecipeError: the description does not state these subjects.
    """
    listed = description.get("fitted_people")
    fitted = np.isin([hashed_subject(person) for person in subject], listed or [])
    parts = [description[name] for name in ("calibrated", "gate") if name in description]
    by_hash = [part for part in parts if part.get("division") == DIVISION]
    if listed is None and ("calibrated" not in description or len(by_hash) < len(parts)):
        raise RecipeError(
            f"The description of {description['name']} does not state the subjects that its calibration and quality "
            "control were fitted on: it has neither `fitted_people` nor a division by hash. Run `kneegrade calibrate` "
            "and `kneegrade quality-control` again."
        )
    for part in by_hash:
        fitted |= in_first_group(subject, part["share"], part["seed"])
    return ~fitted
