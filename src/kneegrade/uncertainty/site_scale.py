"""`SiteScale`: the grades as a site's own reader gives them, from the grades on the scale of the study's readers.

The grades that weights give are those of the readers whose labels the network learnt. Readers of other hospitals draw
the borders of the grades elsewhere. `fit_site_scale` needs 50 or more labelled knees of a site. It chooses a map of
each labelled grade (`kneegrade.uncertainty.site_maps`) and fits prediction sets. The map acts on the decoded
distribution of one grade, so a map of KL alone moves neither the OARSI grades nor the joint table.

All knees are fitted on. `cross_fitted_scale` measures: every fifth of the people is graded by a scale, with its sets,
that was chosen and fitted on the other four fifths.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.errors import RecipeError, WeightsError
from kneegrade.results import SiteReader
from kneegrade.schema import TARGETS
from kneegrade.uncertainty.conformal import ConformalSets, fit_sets
from kneegrade.uncertainty.joint_decoding import CoherentDecoder, smooth_ordinal
from kneegrade.uncertainty.label_counts import (
    MIN_KNEES,
    MIN_PEOPLE,
    grades_with_enough_labels,
    knees_read,
    most_read,
    suffices,
)
from kneegrade.uncertainty.site_maps import FAMILIES, FOLDS, ChosenMap, Inputs, SiteMap, choose_map
from kneegrade.weights import Weights, load_part

Array = NDArray[np.float64]

SITE, SITE_SETS = "site", "site_sets"  # prefixes of the keys in a weights file, and the key of the description


@dataclass(frozen=True, eq=False)
class SiteScale:
    """The scale of a site's reader.

    Attributes:
        name: of the site.
        knees: number of knees that it was fitted on.
        maps: grade name → map from the study's scale; grades without labels are absent and keep the study's.
        sets: thresholds of the prediction sets, those of the study for the grades without a map.
        ordinal_smoothing: see `kneegrade.uncertainty.joint_decoding`.
    """

    name: str
    knees: int
    maps: Mapping[str, SiteMap]
    sets: ConformalSets
    ordinal_smoothing: float = 0.0

    @property
    def reader(self) -> SiteReader:
        """The reader, as a report names it."""
        return SiteReader(self.name, self.knees, {name: one.family for name, one in self.maps.items()})

    @classmethod
    def of(cls, weights: Weights) -> "SiteScale | None":
        """The site's scale in a grader's weights; None if they have none.

        Raises:
            WeightsError: it does not fit this version.
        """
        tensors, about = weights.part(SITE), weights.description.get(SITE)
        if not tensors:
            return None
        maps = {key.split(".")[0]: SiteMap(key.split(".")[1], value.double().numpy())
                for key, value in tensors.items() if "." in key}  # fmt: skip
        if not isinstance(about, dict) or any(each.family not in FAMILIES for each in maps.values()):
            raise WeightsError(
                f"The site's scale in the weights {weights.name} does not fit this version of kneegrade; run "
                "`kneegrade calibrate --site` again."
            )
        sets = ConformalSets()
        load_part(sets, weights, SITE_SETS)
        return cls(str(about["name"]), int(about["knees"]), maps, sets, float(tensors["ordinal_smoothing"]))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `of` reads, by their keys in a weights file. The name is in the description."""
        parts = {f"{SITE}.{name}.{one.family}": torch.from_numpy(one.parameters) for name, one in self.maps.items()}
        smoothing = torch.tensor(self.ordinal_smoothing, dtype=torch.float64)
        return (
            parts | {f"{SITE}.ordinal_smoothing": smoothing}
            | {f"{SITE_SETS}.{key}": value for key, value in self.sets.state_dict().items()}
        )  # fmt: skip

    def probabilities(self, study: NDArray[np.floating]) -> Array:
        """(N, 29) distributions on the site's scale.

        Args:
            study: (N, 29) decoded distributions on the study's scale.
        """
        mapped = np.array(study, dtype=np.float64)
        for target in TARGETS:
            if target.name in self.maps:
                mapped[:, target.one_hot] = self.maps[target.name](Inputs.of(study, target))
        return mapped

    def grades(
        self, probabilities: Array, study: NDArray[np.int64], decoder: CoherentDecoder | None = None
    ) -> NDArray[np.int64]:
        """(N, 7) reported grades.

        - Of a map that was fitted on labels: the grade with the largest smoothed probability. Hard rules, and the guard
          against KL ≥ 2 beside six OARSI zeros, hold for the grades on the study's scale. They relate grades of the
          same readers, so they are not applied here.
        - Of the identity, and without a map: the study's.
        - After a correction of prevalences (maps of the family "bias") the readers are the study's: the decoder chooses
          the grades from the corrected probabilities, by its rules.

        Args:
            probabilities: (N, 29) on the site's scale.
            study: (N, 7) grades on the study's scale.
            decoder: of the weights.
        """
        families = {one.family for one in self.maps.values()}
        if decoder is not None and "bias" in families and families <= {"bias", "identity"}:
            return decoder.grades(probabilities)
        smoothed, grades = smooth_ordinal(probabilities, self.ordinal_smoothing), study.copy()
        for index, target in enumerate(TARGETS):
            if target.name in self.maps and self.maps[target.name].family != "identity":
                grades[:, index] = smoothed[:, target.one_hot].argmax(1)
        return grades


def fit_site_scale(
    study: NDArray[np.floating], targets: NDArray[np.floating], subject: NDArray[np.str_], *, name: str,
    study_sets: ConformalSets | None = None, ordinal_smoothing: float = 0.0, level: float = 0.9, seed: int = 0,
) -> SiteScale:  # fmt: skip
    """The scale of a site's reader, fitted on all given knees.

    The thresholds of the prediction sets are fitted on out-of-fold predictions of the chosen maps (cross-conformal
    prediction). They are the ⌈(n + 1)·level⌉-th smallest score of n knees, so sets are larger for few knees.

    Args:
        study: (M, 29) decoded distributions on the study's scale.
        targets: (M, 29) labels of the site's reader as distributions, NaN where missing.
        subject: (M,) ids of the people.
        name: of the site.
        study_sets: of the weights; kept for grades without labels. None gives such grades the whole scale.
        ordinal_smoothing: of the weights' decoder.
        level: nominal coverage of the sets.
        seed: of the folds.

    Raises:
        RecipeError: no grade was read in 50 knees of 20 people.
    """
    chosen = choose_maps(study, targets, subject, seed)
    if not chosen:
        knees, people = most_read(targets, subject)
        raise RecipeError(
            f"Found at most {knees} labelled knees of {people} subjects per grade; the scale of a site needs one grade "
            f"(for example kl) of {MIN_KNEES} knees of {MIN_PEOPLE} subjects. 100 or 200 knees are better."
        )
    return _scale_of(chosen, targets, name, study_sets, ordinal_smoothing, level)


def choose_maps(
    study: NDArray[np.floating], targets: NDArray[np.floating], subject: NDArray[np.str_], seed: int = 0,
    least: tuple[int, int] = (MIN_KNEES, MIN_PEOPLE),
) -> dict[str, ChosenMap]:  # fmt: skip
    """Grade name → map, for each grade with labels of at least `least` = (knees, people)."""
    chosen = {}
    person, rows = np.unique(subject, return_inverse=True)[1], knees_read(targets)
    for target in TARGETS:
        read = rows[target.name]
        if suffices(person[read], least):
            labels = np.asarray(targets[read][:, target.one_hot], dtype=np.float64)
            chosen[target.name] = choose_map(Inputs.of(study[read], target), labels, person[read], seed)
    return chosen


def _scale_of(
    chosen: Mapping[str, ChosenMap], targets: NDArray[np.floating], name: str, study_sets: ConformalSets | None,
    ordinal_smoothing: float, level: float,
) -> SiteScale:  # fmt: skip
    """The scale with the chosen maps, and with sets fitted on their out-of-fold predictions."""
    out_of_fold, labels, rows = np.zeros(targets.shape), np.full(targets.shape, np.nan), knees_read(targets)
    for target in TARGETS:
        if target.name in chosen:
            read = rows[target.name]
            labels[read, target.one_hot] = targets[read, target.one_hot]
            out_of_fold[read, target.one_hot] = chosen[target.name].out_of_fold
    sets = fit_sets(out_of_fold, labels, level)
    if study_sets is not None:
        sets.keep(study_sets, [target.name for target in TARGETS if target.name not in chosen])
    maps = {grade: one.map for grade, one in chosen.items()}
    return SiteScale(name, int(np.isfinite(labels).any(1).sum()), maps, sets, float(np.float32(ordinal_smoothing)))


def cross_fitted_scale(
    study: NDArray[np.floating], study_grades: NDArray[np.int64], targets: NDArray[np.floating],
    subject: NDArray[np.str_], *, study_sets: ConformalSets | None = None, ordinal_smoothing: float = 0.0,
    level: float = 0.9, seed: int = 0,
) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:  # fmt: skip
    """Probabilities (M, 29), grades (M, 7) and sets (M, 29) of each knee by a scale fitted without that person.

    Args:
        study: (M, 29) decoded distributions on the study's scale.
        study_grades: (M, 7) grades on the study's scale.
        targets: (M, 29) labels of the site's reader as distributions, NaN where missing.
        subject: (M,) ids of the people.
        study_sets: see `fit_site_scale`.
        ordinal_smoothing: see `fit_site_scale`.
        level: see `fit_site_scale`.
        seed: of the folds.
    """
    people = np.random.default_rng([seed, 1]).permutation(np.unique(subject))
    probabilities, grades = np.array(study, dtype=np.float64), study_grades.copy()
    sets = np.ones(probabilities.shape, dtype=np.bool_)
    labelled = grades_with_enough_labels(targets, subject)
    for number in range(FOLDS):
        test = np.isin(subject, people[number::FOLDS])
        kept = choose_maps(study[~test], targets[~test], subject[~test], seed, least=(1, FOLDS))
        kept = {name: one for name, one in kept.items() if name in labelled}
        scale = _scale_of(kept, targets[~test], "", study_sets, ordinal_smoothing, level)
        probabilities[test] = scale.probabilities(study[test])
        grades[test] = scale.grades(probabilities[test], study_grades[test])
        sets[test] = scale.sets.sets(probabilities[test], grades[test])
    return probabilities, grades, sets
