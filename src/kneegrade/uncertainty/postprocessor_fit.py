"""`fit_postprocessor`: from logits and labels of knees to a fitted `Postprocessor`.

Only grades with labels of at least 50 knees of 20 people are fitted. The others keep the calibration and the prediction
sets of an earlier postprocessor: a few labels are too few for the parameters of a grade, and the joint table must not
take the prevalences of a grade from them either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.errors import RecipeError
from kneegrade.schema import TARGETS
from kneegrade.uncertainty.calibration import (
    expected_agreement,
    fit_calibration,
    fit_calibration_through_decoder,
)
from kneegrade.uncertainty.conformal import fit_sets
from kneegrade.uncertainty.joint_decoding import CoherentDecoder, rake_to_labels
from kneegrade.uncertainty.label_counts import (
    MIN_KNEES,
    MIN_PEOPLE,
    grades_with_enough_labels,
    most_read,
    without_other_labels,
)
from kneegrade.uncertainty.postprocess import Postprocessor

JOINT_EXPONENTS = (0.0, 0.3, 0.5, 0.7, 1.0)
ORDINAL_SMOOTHINGS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class CalibrationKnees:
    """Logits and labels of M knees that the network was not trained on.

    Attributes:
        logits: grade name → (M, classes).
        targets: (M, 29) label distributions, NaN where missing.
        subject: (M,) str.
    """

    logits: Mapping[str, Tensor]
    targets: NDArray[np.float32]
    subject: NDArray[np.str_]

    def part(self, rows: NDArray[np.bool_]) -> "CalibrationKnees":
        """The knees of a mask (M,)."""
        logits = {name: value[torch.from_numpy(rows)] for name, value in self.logits.items()}
        return CalibrationKnees(logits, self.targets[rows], self.subject[rows])


def fit_postprocessor(
    knees: CalibrationKnees,
    table: NDArray[np.float64],
    level: float = 0.9,
    seed: int = 0,
    previous: Postprocessor | None = None,
) -> Postprocessor:
    """Calibration, decoder and prediction sets fitted on labelled knees.

    Grades with labels of fewer than 50 knees or 20 people are not fitted, and their labels are not used. They keep the
    calibration and the thresholds of `previous`. Without `previous` they have the plain softmax, and without its
    thresholds their sets are the whole scale.

    The thresholds of the sets are fitted on out-of-fold predictions: the probabilities of each fifth of the people come
    from a postprocessor that was tuned on the other four fifths (cross-conformal prediction, Vovk 2015). Thresholds
    fitted on the knees that tuned the calibration would be too small. Each fold therefore also chooses its own joint
    exponent and ordinal smoothing.

    Args:
        knees: to fit on.
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution of any population.
        level: nominal coverage of the sets.
        seed: of the folds.
        previous: the postprocessor of the weights, from which grades with too few labels keep what they have.

    Raises:
        RecipeError: no grade was read in 50 knees of 20 people, or grades would keep prediction sets of another level.
    """
    fitted = grades_with_enough_labels(knees.targets, knees.subject)
    if not fitted:
        most, subjects = most_read(knees.targets, knees.subject)
        raise RecipeError(
            f"Found at most {most} labelled knees of {subjects} subjects per grade to calibrate on; one grade (for "
            f"example kl) must have been read in {MIN_KNEES} knees of {MIN_PEOPLE} subjects. Provide a manifest with "
            "more labelled knees, or fit on a larger share of them."
        )
    kept = tuple(target.name for target in TARGETS if target.name not in fitted)
    _check_level(kept, level, previous)
    knees = replace(knees, targets=without_other_labels(knees.targets, fitted))
    labelled = np.isfinite(knees.targets).any(axis=1)
    people = np.random.default_rng(seed).permutation(np.unique(knees.subject[labelled]))
    probabilities = np.zeros(knees.targets.shape)
    for fold in range(FOLDS):
        held_out = np.isin(knees.subject, people[fold::FOLDS])
        postprocessor = tuned_postprocessor(knees.part(~held_out), table, previous)
        probabilities[held_out] = postprocessor(knees.part(held_out).logits).probabilities
    sets = fit_sets(probabilities, knees.targets, level)
    if previous is not None and previous.sets is not None:
        sets.keep(previous.sets, kept)
    return replace(tuned_postprocessor(knees, table, previous), sets=sets)


def _check_level(kept: tuple[str, ...], level: float, previous: Postprocessor | None) -> None:
    """Refuse sets of two levels.

    Raises:
        RecipeError: the sets that the grades `kept` would keep are for another level.
    """
    if not kept or previous is None or previous.sets is None:
        return
    own = round(float(previous.sets.level), 6)
    if abs(level - own) > 1e-6:
        raise RecipeError(
            f"These grades were read in fewer than {MIN_KNEES} knees or {MIN_PEOPLE} subjects and keep the prediction "
            f"sets of the weights: {', '.join(kept)}. The sets of the weights are for "
            f"{own:g}, those to fit for {level:g}. Choose the level {own:g} (--level), or provide more labelled knees."
        )


def tuned_postprocessor(
    knees: CalibrationKnees, table: NDArray[np.float64], previous: Postprocessor | None = None
) -> Postprocessor:
    """Calibration and decoder tuned together on labelled knees, without prediction sets.

    Temperatures and biases are fitted through the decoder for every joint exponent tried; the exponent with the lowest
    negative log-likelihood of the labels is kept. The ordinal smoothing is the one whose grades the calibrated
    probabilities expect to agree best with readings (`expected_agreement`).

    Where a grade has no label, it keeps the calibration of `previous`. That calibration was fitted through the decoder
    of `previous`, so that decoder is kept too, and only its table is raked to the labels.

    Args:
        knees: to fit on.
        table: see `fit_postprocessor`; it is raked to the grades of these knees.
        previous: see `fit_postprocessor`.
    """
    logits = {name: value.float().cpu() for name, value in knees.logits.items()}
    names = {t.name for t in TARGETS if np.isfinite(knees.targets[:, t.one_hot]).any()}
    calibration, before = fit_calibration(logits, torch.from_numpy(knees.targets)), None
    if previous is not None and len(names) < len(TARGETS):
        before = previous.decoder
        for name in (target.name for target in TARGETS if target.name not in names):
            calibration.log_temperature[name].copy_(previous.calibration.log_temperature[name])
            calibration.bias[name].copy_(previous.calibration.bias[name])
    raked = rake_to_labels(table if before is None else before.table, knees.targets)
    raked = raked.astype(np.float32).astype(np.float64)  # precision of the weights file
    exponents = JOINT_EXPONENTS if before is None else (before.joint_exponent,)
    decoders = [CoherentDecoder(raked, 0.0, b) for b in exponents]
    fits = [fit_calibration_through_decoder(logits, knees.targets, decoder, calibration) for decoder in decoders]
    best = int(np.argmin([loss for _, loss in fits]))
    postprocessor = Postprocessor(fits[best][0], decoders[best])
    if before is not None:
        return replace(postprocessor, decoder=replace(decoders[best], ordinal_smoothing=before.ordinal_smoothing))
    marginals = postprocessor(logits).probabilities
    smoothed = [replace(decoders[best], ordinal_smoothing=c) for c in ORDINAL_SMOOTHINGS]
    decoder = max(smoothed, key=lambda each: expected_agreement(each.grades(marginals), marginals, names))
    return replace(postprocessor, decoder=decoder)
