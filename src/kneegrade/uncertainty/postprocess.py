"""`Postprocessor`: from a network's logits to what a report may say: distributions, grades and sets of grades.

Calibration first; then, where weights bring a joint table, coherent decoding, whose marginals are the distributions and
whose grades break no hard rule (the two are tuned together); then, where they bring thresholds, prediction sets.
Weights without either give the likeliest grades and no sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import concatenate_probabilities, most_probable_grades
from kneegrade.errors import RecipeError
from kneegrade.results import GradeResult
from kneegrade.schema import CLASSES, TARGETS
from kneegrade.uncertainty.calibration import Calibration, fit_calibration, fit_calibration_through_decoder, worth
from kneegrade.uncertainty.conformal import ConformalSets, fit_sets
from kneegrade.uncertainty.joint_decoding import CoherentDecoder, raked_to
from kneegrade.weights import Weights, load_part

DECODER, SETS, CALIBRATION = "decoder", "sets", "calibration"
JOINT_EXPONENTS = (0.0, 0.3, 0.5, 0.7, 1.0)
SMOOTHINGS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
FOLDS = 5
FEWEST_PEOPLE = 10


@dataclass(frozen=True, eq=False)
class CalibratedGrades:
    """What is said of N knees.

    Attributes:
        probabilities: (N, 29) float64, seven distributions.
        grades: (N, 7) that are given.
        alone: (N, 7) that would be given if no rule bound the seven.
        sets: (N, 29) bool, which grades are in the sets; None without thresholds.
    """

    probabilities: NDArray[np.float64]
    grades: NDArray[np.int64]
    alone: NDArray[np.int64]
    sets: NDArray[np.bool_] | None

    def results(self, row: int) -> dict[str, GradeResult]:
        """The seven grades of one knee by name, in the order of the schema."""
        found = {}
        for index, target in enumerate(TARGETS):
            shares = self.probabilities[row, target.one_hot]
            held = None if self.sets is None else tuple(np.flatnonzero(self.sets[row, target.one_hot]).tolist())
            probabilities = tuple((shares / shares.sum()).tolist())
            found[target.name] = GradeResult(int(self.grades[row, index]), probabilities, held)
        return found


@dataclass(frozen=True, eq=False)
class Postprocessor:
    """How logits become claims.

    Attributes:
        calibration: of each grade.
        decoder: None leaves the grades independent.
        sets: None says nothing of sets.
    """

    calibration: Calibration
    decoder: CoherentDecoder | None = None
    sets: ConformalSets | None = None

    @classmethod
    def of(cls, held: Weights) -> "Postprocessor":
        """Those of a grader's weights.

        Raises:
            WeightsError: a part does not fit this version.
        """
        calibration = Calibration().requires_grad_(False)
        load_part(calibration, held, CALIBRATION)
        table, sets = held.part(DECODER), None
        if held.part(SETS):
            sets = ConformalSets()
            load_part(sets, held, SETS)
        decoder = None
        if table:
            joint = table["table"].double().numpy().reshape(CLASSES)
            decoder = CoherentDecoder(joint, *table["exponents"].double().tolist())
        return cls(calibration, decoder, sets)

    def tensors(self) -> dict[str, Tensor]:
        """What `of` reads, by names of a weights file."""
        parts: dict[str, Tensor] = {f"{CALIBRATION}.{k}": v for k, v in self.calibration.state_dict().items()}
        if self.decoder is not None:
            exponents = [self.decoder.prior_exponent, self.decoder.joint_exponent, self.decoder.ordinal_smoothing]
            parts[f"{DECODER}.table"] = torch.from_numpy(self.decoder.table.reshape(-1).copy())
            parts[f"{DECODER}.exponents"] = torch.tensor(exponents, dtype=torch.float64)
        if self.sets is not None:
            parts |= {f"{SETS}.{k}": v for k, v in self.sets.state_dict().items()}
        return parts

    def __call__(self, logits: Mapping[str, Tensor]) -> CalibratedGrades:
        """What may be said of knees with these logits (grade name → (N, classes))."""
        with torch.no_grad():
            calibrated = self.calibration({name: value.detach().float().cpu() for name, value in logits.items()})
            probabilities = concatenate_probabilities(calibrated).double().numpy()
        grades = alone = most_probable_grades(probabilities)
        if self.decoder is not None:
            probabilities = self.decoder.marginals(probabilities)
            grades, alone = self.decoder.grades(probabilities), self.decoder.alone(probabilities)
        sets = None if self.sets is None else self.sets.sets(probabilities, grades)
        return CalibratedGrades(probabilities, grades, alone, sets)


@dataclass(frozen=True, eq=False)
class Graded:
    """M knees that were not trained on.

    Attributes:
        logits: grade name → (M, classes).
        targets: (M, 29) labels as distributions, NaN where missing.
        subject: (M,) str.
    """

    logits: Mapping[str, Tensor]
    targets: NDArray[np.float32]
    subject: NDArray[np.str_]

    def part(self, rows: NDArray[np.bool_]) -> "Graded":
        """Some of them."""
        logits = {name: value[torch.from_numpy(rows)] for name, value in self.logits.items()}
        return Graded(logits, self.targets[rows], self.subject[rows])


def fit_postprocessor(
    knees: Graded, table: NDArray[np.float64], level: float = 0.9, seed: int = 0, before: Calibration | None = None
) -> Postprocessor:
    """Calibration, decoder and sets of these knees.

    The sets' thresholds come from what claims say that were fitted, in turn, on the other four fifths of the people
    (cross-conformal prediction, Vovk 2015): sets whose own knees had tuned what they are made of would promise too
    much. Every fold therefore chooses its own joint exponent and ordinal_smoothing too.

    Args:
        knees: to fit on.
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution of any population.
        level: of the sets.
        seed: of the folds.
        before: a calibration whose parameters stay for grades that no knee has; by default these stay as they are.

    Raises:
        RecipeError: fewer than ten people with a grade.
    """
    graded = np.isfinite(knees.targets).any(axis=1)
    found = len(np.unique(knees.subject[graded]))
    if found < FEWEST_PEOPLE:
        raise RecipeError(
            f"{int(graded.sum())} graded knees of {found} people to calibrate on; at least {FEWEST_PEOPLE} people are "
            "needed, since sets are fitted by folds over people. Give a manifest with more people, or a larger share."
        )
    people = np.random.default_rng(seed).permutation(np.unique(knees.subject[graded]))
    said = np.zeros(knees.targets.shape)
    for fold in range(FOLDS):
        out = np.isin(knees.subject, people[fold::FOLDS])
        said[out] = tuned_claims(knees.part(~out), table, before)(knees.part(out).logits).probabilities
    return replace(tuned_claims(knees, table, before), sets=fit_sets(said, knees.targets, level))


def tuned_claims(knees: Graded, table: NDArray[np.float64], before: Calibration | None = None) -> Postprocessor:
    """Calibration and decoder of these knees, tuned together; no sets.

    Temperatures and biases are fitted through the decoder for every joint exponent tried; the exponent is the one that
    makes the labels most probable. The ordinal smoothing is the one whose grades agree best with the labels.

    Args:
        knees: to fit on.
        table: see `fit_postprocessor`; it is raked to the grades of these knees.
        before: see `fit_postprocessor`.
    """
    logits = {name: value.float().cpu() for name, value in knees.logits.items()}
    calibration = fit_calibration(logits, torch.from_numpy(knees.targets))
    for target in TARGETS:
        if before is not None and not np.isfinite(knees.targets[:, target.one_hot]).any():
            calibration.log_temperature[target.name].copy_(before.log_temperature[target.name])
            calibration.bias[target.name].copy_(before.bias[target.name])
    raked = raked_to(table, knees.targets).astype(np.float32).astype(np.float64)  # as a file keeps it
    decoders = [CoherentDecoder(raked, 0.0, b) for b in JOINT_EXPONENTS]
    fits = [fit_calibration_through_decoder(logits, knees.targets, decoder, calibration) for decoder in decoders]
    chosen = int(np.argmin([loss for _, loss in fits]))
    claims = Postprocessor(fits[chosen][0], decoders[chosen])
    said, tried = claims(logits).probabilities, [replace(decoders[chosen], ordinal_smoothing=c) for c in SMOOTHINGS]
    return replace(claims, decoder=max(tried, key=lambda d: worth(d.grades(said), knees.targets)))
