"""`Postprocessor`: from the logits of a network to calibrated grades, in up to four steps.

1. Calibration of each grade.
2. Joint decoding, if the weights bring a joint table: its marginals are the reported distributions, and its grades
   break no hard rule. Calibration and decoder are tuned together.
3. Prediction sets, if the weights bring thresholds. Knees with a finding of quality control get wider ones.
4. The scale of a site's reader, if the weights were calibrated to one (`kneegrade.uncertainty.site_scale`).

Without a decoder the most probable grades are reported; without thresholds there are no sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import concatenate_probabilities, most_probable_grades, rule_findings
from kneegrade.results import Finding, GradeResult
from kneegrade.schema import CLASSES, TARGET_NAMES, TARGETS
from kneegrade.uncertainty.calibration import Calibration
from kneegrade.uncertainty.conformal import ConformalSets, stricter_level
from kneegrade.uncertainty.joint_decoding import CoherentDecoder
from kneegrade.uncertainty.site_scale import SiteScale
from kneegrade.weights import Weights, load_part

DECODER, SETS, CALIBRATION = "decoder", "sets", "calibration"  # prefixes of the keys in a weights file


@dataclass(frozen=True, eq=False)
class CalibratedGrades:
    """Calibrated grades of N knees.

    Attributes:
        probabilities: (N, 29) float64, seven distributions.
        grades: (N, 7) reported grades.
        independent_grades: (N, 7) grades that would be reported if no rule related the seven to each other.
        sets: (N, 29) bool, which grades are in the prediction sets; None without thresholds.
        study: the same knees on the scale of the study's readers, if this is on the scale of a site's reader.
        mapped: names of the grades whose scale is the site's.
    """

    probabilities: NDArray[np.float64]
    grades: NDArray[np.int64]
    independent_grades: NDArray[np.int64]
    sets: NDArray[np.bool_] | None
    study: "CalibratedGrades | None" = None
    mapped: frozenset[str] = frozenset()

    @property
    def on_study_scale(self) -> "CalibratedGrades":
        """The same knees on the scale of the study's readers."""
        return self if self.study is None else self.study

    def results(self, row: int) -> dict[str, GradeResult]:
        """The seven grades of one knee by name, in the order of the schema."""
        results, study = {}, {} if self.study is None else self.study.results(row)
        for index, target in enumerate(TARGETS):
            shares = self.probabilities[row, target.one_hot]
            members = None if self.sets is None else tuple(np.flatnonzero(self.sets[row, target.one_hot]).tolist())
            probabilities = tuple((shares / shares.sum()).tolist())
            beside = study[target.name] if target.name in self.mapped else None
            results[target.name] = GradeResult(int(self.grades[row, index]), probabilities, members, beside)
        return results

    def findings(self, row: int) -> tuple[Finding, ...]:
        """The rules that the grades of one knee break, and a finding for each grade that is not the most probable.

        Both are about the scale of the study's readers: the rules relate grades of the same readers.
        """
        if self.study is not None:
            return self.study.findings(row)
        given = dict(zip(TARGET_NAMES, self.grades[row].tolist(), strict=True))
        most_probable = most_probable_grades(self.probabilities[row : row + 1])[0]
        findings = list(rule_findings(given))
        for index, target in enumerate(TARGETS):
            grade, top = given[target.name], int(most_probable[index])
            if grade == top:
                continue
            chance = self.probabilities[row, target.one_hot]
            chosen = (
                f"{target.label} {grade} was chosen although {top} is more probable on its own "
                f"({chance[top]:.2f} against {chance[grade]:.2f}), because "
            )
            without_rules = self.independent_grades[row, index]
            if grade != without_rules:
                reason = f"{without_rules} and the other grades would break a rule. Check this grade and the others."
                findings.append(Finding("grade_moved", chosen + reason))
            else:
                findings.append(Finding("grade_between", chosen + f"{grade} is closer to the other probable grades."))
        return tuple(findings)


@dataclass(frozen=True, eq=False)
class Postprocessor:
    """Maps logits to calibrated grades.

    Attributes:
        calibration: of each grade.
        decoder: None leaves the grades independent of each other.
        sets: thresholds of the prediction sets; None gives no sets.
        site: scale of a site's reader; None reports on the scale of the study's readers.
    """

    calibration: Calibration
    decoder: CoherentDecoder | None = None
    sets: ConformalSets | None = None
    site: SiteScale | None = None

    @property
    def set_level(self) -> float | None:
        """Probability with which a reported prediction set contains the true grade; None without sets."""
        sets = self.sets if self.site is None else self.site.sets
        return None if sets is None else round(float(sets.level), 6)

    @classmethod
    def of(cls, weights: Weights) -> "Postprocessor":
        """The postprocessor of a grader's weights.

        Raises:
            WeightsError: a part does not fit this version.
        """
        calibration = Calibration().requires_grad_(False)
        load_part(calibration, weights, CALIBRATION)
        table, sets = weights.part(DECODER), None
        if weights.part(SETS):
            sets = ConformalSets()
            load_part(sets, _with_strict_thresholds(weights), SETS)
        decoder = None
        if table:
            joint = table["table"].double().numpy().reshape(CLASSES)
            decoder = CoherentDecoder(joint, *table["exponents"].double().tolist())
        return cls(calibration, decoder, sets, SiteScale.of(weights))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `of` reads, by their keys in a weights file."""
        parts: dict[str, Tensor] = {f"{CALIBRATION}.{k}": v for k, v in self.calibration.state_dict().items()}
        if self.decoder is not None:
            exponents = [self.decoder.prior_exponent, self.decoder.joint_exponent, self.decoder.ordinal_smoothing]
            parts[f"{DECODER}.table"] = torch.from_numpy(self.decoder.table.reshape(-1).copy())
            parts[f"{DECODER}.exponents"] = torch.tensor(exponents, dtype=torch.float64)
        if self.sets is not None:
            parts |= {f"{SETS}.{k}": v for k, v in self.sets.state_dict().items()}
        return parts if self.site is None else parts | self.site.tensors()

    def __call__(self, logits: Mapping[str, Tensor], unusual: NDArray[np.bool_] | None = None) -> CalibratedGrades:
        """Calibrated grades of N knees.

        Args:
            logits: grade name → (N, classes), on any device.
            unusual: (N,) knees with a finding of quality control, which get wider sets; None for no knee.
        """
        with torch.no_grad():
            calibrated = self.calibration({name: value.detach().float().cpu() for name, value in logits.items()})
            probabilities = concatenate_probabilities(calibrated).double().numpy()
        grades = independent = most_probable_grades(probabilities)
        if self.decoder is not None:
            probabilities = self.decoder.marginals(probabilities)
            grades = self.decoder.grades(probabilities)
            independent = self.decoder.independent_grades(probabilities)
        sets = None if self.sets is None else self.sets.sets(probabilities, grades, unusual)
        study = CalibratedGrades(probabilities, grades, independent, sets)
        return study if self.site is None else _on_site_scale(study, self.site, self.decoder, unusual)


def _on_site_scale(
    study: CalibratedGrades, site: SiteScale, decoder: CoherentDecoder | None, unusual: NDArray[np.bool_] | None
) -> CalibratedGrades:
    probabilities = site.probabilities(study.probabilities)
    grades = site.grades(probabilities, study.grades, decoder)
    sets = site.sets.sets(probabilities, grades, unusual)
    return CalibratedGrades(probabilities, grades, study.independent_grades, sets, study, frozenset(site.maps))


def _with_strict_thresholds(weights: Weights) -> Weights:
    """The weights, with thresholds for unusual knees if their file is of an earlier version and has none.

    The sets of unusual knees then contain grades with a calibrated probability of at least `stricter_level` together.
    """
    key, part = f"{SETS}.strict_threshold", weights.part(SETS)
    if "strict_threshold" in part:
        return weights
    nominal = part["threshold"].clamp(min=stricter_level(float(part["level"])))
    return replace(weights, tensors={**weights.tensors, key: nominal})
