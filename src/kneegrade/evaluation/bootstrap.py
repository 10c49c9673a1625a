"""Two networks on the same knees: paired bootstrap over people, and McNemar's test.

Scores of predictions with intervals: every metric once on the knees as they are and on bootstrap samples of people.

The knees of a person are alike, so whole subjects are drawn. All that is scored with the same `SubjectBootstrap` is
scored on the same samples, so differences between two networks are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from kneegrade.coherence import breaks_hard_rule
from kneegrade.errors import UsageError
from kneegrade.evaluation.metrics import calibration_error, calibration_sums, confusion, matrix_metrics, weighted_auc
from kneegrade.evaluation.predictions import Predictions
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES, TARGETS, Target, grade_tuple_counts

Array = NDArray[np.float64]
Scores = dict[str, dict[str, Array]]  # grade, "oarsi_mean" or "joint" → metric → (1 + replicates,)


@dataclass(frozen=True, eq=False)
class SubjectBootstrap:
    """How often each subject is drawn, in the sample as it is (row 0) and in `replicates` bootstrap samples.

    Args:
        subject: (N,) of every knee.
        replicates: bootstrap samples.
        seed: of the draws.
    """

    subject: NDArray[np.str_]
    replicates: int = 1000
    seed: int = 0
    place: NDArray[np.int64] = field(init=False)
    weights: Array = field(init=False)

    def __post_init__(self) -> None:
        names, place = np.unique(self.subject, return_inverse=True)
        drawn = np.random.default_rng(self.seed).multinomial(
            len(names), np.full(len(names), 1 / len(names)), self.replicates
        )
        object.__setattr__(self, "place", place)
        object.__setattr__(self, "weights", np.concatenate([np.ones((1, len(names))), drawn]).astype(np.float64))

    def sums(self, values: Array) -> Array:
        """Sums over the knees of every sample: (N, …) → (1 + replicates, …)."""
        flat = values.reshape(len(values), -1)
        by_subject = np.zeros((self.weights.shape[1], flat.shape[1]))
        np.add.at(by_subject, self.place, flat)
        return (self.weights @ by_subject).reshape(-1, *values.shape[1:])


def score(predictions: Predictions, bootstrap: SubjectBootstrap, guess: NDArray[np.int64] | None = None) -> Scores:
    """Every metric of every grade, `oarsi_mean` (means over those of the six that were read) and `joint`.

    `joint` holds `auc_kl2` (of P(KL ≥ 2)), `hard_rule_rate` and `empty_cell_rate` (shares of the predicted
    seven-tuples that break a hard rule, or that none of the 5,507 knees behind the packaged joint counts has), and
    `incoherence_rate` (either), and `marginal_shift`: how far the mean prediction is from the labels' distribution
    (total variation, mean over grades), which tells a collapse.

    Args:
        predictions: N knees.
        bootstrap: over their subjects.
        guess: (N, 7) grades, if not those that the predictions give.
    """
    truth, guessed = predictions.truth(), predictions.guess() if guess is None else guess
    scores: Scores = {}
    for index, target in enumerate(TARGETS):
        read = truth[:, index] >= 0
        if not read.any():
            continue
        one_by_one = np.zeros((len(truth), target.classes, target.classes))
        one_by_one[read, truth[read, index], guessed[read, index]] = 1
        scores[target.name] = matrix_metrics(bootstrap.sums(one_by_one))
        shares = predictions.probabilities[:, target.one_hot].astype(np.float64)
        sums = calibration_sums(truth[:, index], shares) * read[:, None, None]
        scores[target.name]["calibration_error"] = calibration_error(bootstrap.sums(sums))
        if predictions.sets is not None:
            scores[target.name] |= _set_scores(predictions.sets, predictions.targets, target, bootstrap)
    six = [scores[name] for name in OARSI_NAMES if name in scores]
    if six:
        scores["oarsi_mean"] = {metric: np.mean([grade[metric] for grade in six], axis=0) for metric in six[0]}
    scores["joint"] = _joint(predictions, truth, guessed, bootstrap)
    return scores


def _set_scores(
    sets: NDArray[np.bool_], targets: NDArray[np.float32], target: Target, bootstrap: SubjectBootstrap
) -> dict[str, Array]:
    """`set_coverage`: how often a set holds the label, a soft one by its probability; `set_size`: its mean."""
    wanted, own = targets[:, target.one_hot].astype(np.float64), sets[:, target.one_hot]
    read = np.asarray(np.isfinite(wanted).all(1))
    held = (own * np.nan_to_num(wanted)).sum(1)
    sums = bootstrap.sums(np.stack([held, own.sum(1), np.ones(len(own))], axis=1) * read[:, None])
    return {"set_coverage": sums[:, 0] / sums[:, 2], "set_size": sums[:, 1] / sums[:, 2]}


def _joint(
    predictions: Predictions, truth: NDArray[np.int64], guess: NDArray[np.int64], bootstrap: SubjectBootstrap
) -> dict[str, Array]:
    hard, empty = incoherent(guess)
    rates = bootstrap.sums(np.stack([hard, empty, hard | empty], axis=1).astype(np.float64)) / bootstrap.sums(
        np.ones((len(guess), 1))
    )
    read = truth[:, 0] >= 0
    above = predictions.probabilities[read, 2:5].astype(np.float64).sum(1)
    auc = weighted_auc(truth[read, 0] >= 2, above, bootstrap.weights[:, bootstrap.place[read]])
    return {
        "auc_kl2": auc,
        "hard_rule_rate": rates[:, 0],
        "empty_cell_rate": rates[:, 1],
        "incoherence_rate": rates[:, 2],
        "marginal_shift": _marginal_shift(predictions, bootstrap),
    }


def _marginal_shift(predictions: Predictions, bootstrap: SubjectBootstrap) -> Array:
    """Mean over grades of the total variation between the mean prediction and the labels' distribution."""
    shifts = []
    for target in TARGETS:
        wanted: Array = predictions.targets[:, target.one_hot].astype(np.float64)
        read = np.isfinite(wanted[:, 0])
        if read.any():
            said: Array = predictions.probabilities[:, target.one_hot].astype(np.float64)
            off = (said - np.nan_to_num(wanted)) * read[:, None]
            number = bootstrap.sums(read[:, None].astype(np.float64))
            with np.errstate(invalid="ignore"):
                shifts.append(np.abs(bootstrap.sums(off) / number).sum(1) / 2)
    return np.asarray(np.mean(shifts, axis=0)) if shifts else np.full(len(bootstrap.weights), np.nan)


def incoherent(grades: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of (N, 7) predicted tuples break a hard rule, and which occur in no counted knee."""
    tuples, place = np.unique(grades, axis=0, return_inverse=True)
    counts = grade_tuple_counts()
    empty = np.array([tuple(row) not in counts for row in tuples.tolist()], dtype=np.bool_)
    return breaks_hard_rule(tuples)[place.reshape(-1)], empty[place.reshape(-1)]


def interval(values: Array) -> tuple[float, float, float]:
    """(value, lower, upper): of the sample as it is, and the 2.5 and 97.5 % quantiles of the others, NaN left out."""
    spread = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(spread, [0.025, 0.975]) if len(spread) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def as_json(scores: Scores, predictions: Predictions) -> dict[str, Any]:
    """Scores as one JSON object: grade → {n, metric, metric_interval, …, confusion}, `oarsi_mean`, `auc_kl2` ….

    Numbers are rounded to five places; what cannot be said (kappa of constants) is null.
    """
    truth, guessed = predictions.truth(), predictions.guess()
    result: dict[str, Any] = {"knees": len(predictions), "subjects": len(np.unique(predictions.subject))}
    for name, metrics in scores.items():
        entry = _with_intervals(metrics)
        if name in TARGET_NAMES:
            index = TARGET_NAMES.index(name)
            read = truth[:, index] >= 0
            matrix = confusion(truth[read, index], guessed[read, index], TARGETS[index].classes)
            entry["confusion"] = matrix.astype(int).tolist()
        result.update(entry if name == "joint" else {name: entry})
    return result


def _with_intervals(metrics: Mapping[str, Array]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for metric, values in metrics.items():
        entry |= {"n": round(float(values[0]))} if metric == "n" else rounded(metric, interval(values))
    return entry


def rounded(metric: str, values: tuple[float, float, float]) -> dict[str, Any]:
    """`metric` and `metric_interval` of (value, lower, upper) to five places, null what cannot be said."""
    value, low, high = (round(v, 5) if np.isfinite(v) else None for v in values)
    return {metric: value, f"{metric}_interval": [low, high]}


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
