"""Which knees of a store a run trains on, with and without their labels, calibrates with and is scored on."""

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
DIVISION = "sha256"  # how `people_first` divides people, as descriptions of weights state it


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of a store, by what a run may do with them; no subject is in two of `training`, `calibration` and `test`.

    Attributes:
        labelled: trained on with all the grades that they have.
        unlabelled: trained on without labels, whether never read or put aside by the labelled share.
        calibration: never trained on; calibration is fitted and choices are made on them.
        test: scored once, at the end; may be empty.
    """

    labelled: Rows
    unlabelled: Rows
    calibration: Rows
    test: Rows


def make_splits(store: KneeDataset, data: Data) -> Splits:
    """The folds that a recipe asks for; a function of the store, the shares and `split_seed` alone.

    The paper splits by subject 2:1:1 and says nothing of how 20 or 40 % of the labels were chosen.

    Raises:
        RecipeError: the knees to be scored are those trained on or calibrated with.
    """
    if data.test_split == "train" or (data.test_split == "val" and data.calibration_share is None):
        raise RecipeError(
            f"data.test_split={data.test_split}: these knees are trained on or calibrated with; name another split, or "
            "give data.calibration_share."
        )
    rows = np.flatnonzero(store.split == "train")
    has_label = np.asarray(np.isfinite(store.targets).any(axis=1))
    test = np.flatnonzero((store.split == data.test_split) & has_label)
    if data.calibration_share is None:
        calibration = np.flatnonzero((store.split == "val") & has_label)
    else:
        held = _held_subjects(store, rows, data.calibration_share, data.split_seed)
        out = np.isin(store.subject[rows], held)
        rows, calibration = rows[~out], rows[out][has_label[rows[out]]]
    labelled = rows[has_label[rows]]
    kept = labelled[_first_share(store, labelled, data.labelled_share, data.split_seed)]
    return Splits(kept, np.setdiff1d(rows, kept) if data.unlabelled else rows[:0], calibration, test)


def people_first(subject: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) bool, which knees are of the people in the first of two groups; about `share` of the people are.

    A person's group follows from a hash of the person's id and the seed, so it does not depend on who else is there.

    Args:
        subject: (N,) ids.
        share: 0 … 1.
        seed: another seed divides the same people otherwise.
    """
    people, place = np.unique(subject, return_inverse=True)
    first = [_position(f"{seed}:{person}") < share for person in people]
    return np.array(first, dtype=np.bool_)[place]


def left_out(description: Mapping[str, Any], subject: NDArray[np.str_]) -> NDArray[np.bool_]:
    """(N,) bool, which knees are of people that the calibration, sets and gate of these weights were not fitted on.

    What states that it divided people by hash (`division`) was fitted on those of `people_first`; all else on the
    people listed in `fitted_people`.

    Args:
        description: of a grader's weights, their sidecar.
        subject: (N,) ids of knees of the split that `calibrate` and `gate` divided.

    Raises:
        RecipeError: the description does not say which people those were.
    """
    listed = description.get("fitted_people")
    fitted = np.isin([hashed_person(person) for person in subject], listed or [])
    parts = [description[name] for name in ("calibrated", "gate") if name in description]
    by_hash = [part for part in parts if part.get("division") == DIVISION]
    if listed is None and ("calibrated" not in description or len(by_hash) < len(parts)):
        raise RecipeError(
            f"The description of {description['name']} does not say which people its calibration and gate were fitted "
            "on: neither `fitted_people` nor a division by hash is there. Run `kneegrade calibrate` and `gate` again."
        )
    for part in by_hash:
        fitted |= people_first(subject, part["share"], part["seed"])
    return ~fitted


def hashed_person(person: str) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a person's id, by which `fitted_people` names people."""
    return hashlib.sha256(person.encode()).hexdigest()[:8]


def _position(text: str) -> float:
    """In [0, 1), by a hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _held_subjects(store: KneeDataset, rows: Rows, share: float, seed: int) -> NDArray[np.str_]:
    """`share` of the subjects of each source."""
    generator = np.random.default_rng(seed)
    held = []
    for source in np.unique(store.source[rows]):
        subjects = np.unique(store.subject[rows][store.source[rows] == source])
        held.append(generator.permutation(subjects)[: round(len(subjects) * share)])
    return np.concatenate(held) if held else np.empty(0, dtype=np.str_)


def _first_share(store: KneeDataset, rows: Rows, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of `rows` belong to the first `share` of the subjects.

    Subjects are shuffled once, stratified by the highest grade any of their knees has on its own scale, so that every
    share is alike in severity and lies within every larger one.
    """
    subjects, index = np.unique(store.subject[rows], return_inverse=True)
    worst = np.zeros(len(subjects), dtype=np.int64)
    np.maximum.at(worst, index, severity(store.targets[rows]))
    order = np.random.default_rng([seed, 1]).permutation(len(subjects))
    chosen = np.zeros(len(subjects), dtype=np.bool_)
    for stratum in np.unique(worst):
        members = order[worst[order] == stratum]
        chosen[members[: round(len(members) * share)]] = True
    return chosen[index]


def severity(targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) KL where it was read, else the highest of the other grades; 0 where nothing was."""
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
        self._passes: dict[int, Rows] = {}

    def batch(self, number: int, size: int) -> Rows:
        """Items number·size … (number + 1)·size − 1."""
        return np.concatenate(list(self._pieces(number * size, (number + 1) * size)))

    def _pieces(self, start: int, stop: int) -> Iterator[Rows]:
        length = len(self.rows)
        for whole in range(start // length, (stop - 1) // length + 1):
            first, last = max(start - whole * length, 0), min(stop - whole * length, length)
            yield self._permuted(whole)[first:last]

    def _permuted(self, whole: int) -> Rows:
        if whole not in self._passes:
            order = np.random.default_rng([*self.seed, whole]).permutation(self.rows)
            self._passes = {key: kept for key, kept in self._passes.items() if key >= whole - 1} | {whole: order}
        return self._passes[whole]
