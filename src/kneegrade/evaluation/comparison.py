"""Two networks on the same knees: paired bootstrap over people, and McNemar's test."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from kneegrade.errors import UsageError
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.scores import Scores, SubjectBootstrap, interval, rounded, score
from kneegrade.schema import TARGET_NAMES


@dataclass(frozen=True)
class Comparison:
    """How the second of two networks differs from the first on one grade, or on the mean of the six.

    Attributes:
        differences: metric → (difference, lower, upper), 95 % by paired bootstrap over subjects.
        only_first: knees that only the first grades right.
        only_second: knees that only the second grades right.
        p_value: of McNemar's exact test, two-sided; it takes the knees of a person for independent, so it is a
            little small. None for the mean of the six.
    """

    differences: dict[str, tuple[float, float, float]]
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values: metric and metric_interval, McNemar's counts; null what cannot be said."""
        result: dict[str, Any] = {}
        for metric, values in self.differences.items():
            result |= rounded(metric, values)
        return {**result, "only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value}


def compare(first: Predictions, second: Predictions, replicates: int = 1000, seed: int = 0) -> dict[str, Comparison]:
    """Grade, and "oarsi_mean" → how `second` differs from `first`.

    Raises:
        UsageError: the two are not about the same knees.
    """
    if not first.same_knees(second):
        raise UsageError("The two files of predictions are about different knees; they cannot be compared in pairs.")
    bootstrap = SubjectBootstrap(first.subject, replicates, seed)
    scores = score(first, bootstrap), score(second, bootstrap)
    truth, guesses = first.truth(), (first.guess(), second.guess())
    result = {}
    for name in scores[0]:
        if name == "joint":
            continue
        tested = mcnemar(truth, guesses, TARGET_NAMES.index(name)) if name in TARGET_NAMES else (None, None, None)
        result[name] = Comparison(differences(*scores, name), *tested)
    return result


def differences(first: Scores, second: Scores, name: str) -> dict[str, tuple[float, float, float]]:
    """Metric that both have → second less first with its 95 % interval, of scores on the same bootstrap."""
    both = (metric for metric in first[name] if metric != "n" and metric in second[name])
    return {metric: interval(second[name][metric] - first[name][metric]) for metric in both}


def mcnemar(
    truth: NDArray[np.int64], guesses: tuple[NDArray[np.int64], NDArray[np.int64]], index: int
) -> tuple[int, int, float]:
    """Knees that only the first, and only the second guesses right in column `index`, and the exact p-value."""
    read = truth[:, index] >= 0
    right = [guess[read, index] == truth[read, index] for guess in guesses]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    changed = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, changed).pvalue) if changed else 1.0
