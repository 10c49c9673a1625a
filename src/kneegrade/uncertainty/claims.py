"""`Claims`: from a network's logits to what a report may say: distributions, grades and sets of grades.

Calibration first; then, where weights bring a joint table, coherent decoding, whose marginals are the distributions and
whose grades break no hard rule; then, where they bring thresholds, prediction sets. Weights without either give the
likeliest grades and no sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import concatenate_probabilities, likeliest_grades
from kneegrade.schema import CLASSES, TARGETS
from kneegrade.uncertainty.calibration import Calibration, fit_calibration
from kneegrade.uncertainty.decoding import CoherentDecoder, fit_decoder
from kneegrade.uncertainty.sets import ConformalSets, fit_sets
from kneegrade.weights import Weights, load_part

DECODER, SETS, CALIBRATION = "decoder", "sets", "calibration"


@dataclass(frozen=True, eq=False)
class Claim:
    """What is said of N knees.

    Attributes:
        probabilities: (N, 29) float64, seven distributions.
        grades: (N, 7).
        sets: (N, 29) bool, which grades are in the sets; None without thresholds.
    """

    probabilities: NDArray[np.float64]
    grades: NDArray[np.int64]
    sets: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Claims:
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
    def of(cls, held: Weights) -> "Claims":
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
            exponents = [self.decoder.prior_exponent, self.decoder.joint_exponent]
            parts[f"{DECODER}.table"] = torch.from_numpy(self.decoder.table.reshape(-1).copy())
            parts[f"{DECODER}.exponents"] = torch.tensor(exponents, dtype=torch.float64)
        if self.sets is not None:
            parts |= {f"{SETS}.{k}": v for k, v in self.sets.state_dict().items()}
        return parts

    def __call__(self, logits: Mapping[str, Tensor]) -> Claim:
        """What may be said of knees with these logits (grade name → (N, classes))."""
        with torch.no_grad():
            calibrated = self.calibration({name: value.detach().float().cpu() for name, value in logits.items()})
            probabilities = concatenate_probabilities(calibrated).double().numpy()
        grades = likeliest_grades(probabilities)
        if self.decoder is not None:
            probabilities = self.decoder.marginals(probabilities)
            grades = self.decoder.grades(probabilities)
        return Claim(probabilities, grades, None if self.sets is None else self.sets.sets(probabilities, grades))


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


def fit_claims(
    knees: Graded, table: NDArray[np.float64], level: float = 0.9, seed: int = 0, before: Calibration | None = None
) -> Claims:
    """Calibration and decoder fitted on half of the people, sets on what these say of the other half.

    Sets whose own knees had tuned what they are made of would promise too much.

    Args:
        knees: to fit on.
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution of any population.
        level: of the sets.
        seed: of the division.
        before: a calibration whose parameters stay for grades that no knee has; by default these stay as they are.
    """
    people = np.random.default_rng(seed).permutation(np.unique(knees.subject))
    first = np.isin(knees.subject, people[: len(people) // 2])
    tuning, rest = knees.part(first), knees.part(~first)
    logits = {name: value.float().cpu() for name, value in tuning.logits.items()}
    calibration = fit_calibration(logits, torch.from_numpy(tuning.targets))
    for target in TARGETS:
        if before is not None and not np.isfinite(tuning.targets[:, target.one_hot]).any():
            calibration.log_temperature[target.name].copy_(before.log_temperature[target.name])
            calibration.bias[target.name].copy_(before.bias[target.name])
    decoder = fit_decoder(table, Claims(calibration)(tuning.logits).probabilities, tuning.targets)
    decoder = replace(decoder, table=decoder.table.astype(np.float32).astype(np.float64))  # as a file keeps it
    said = Claims(calibration, decoder)(rest.logits).probabilities
    return Claims(calibration, decoder, fit_sets(said, rest.targets, level))
