"""Metrics of predictions with bootstrap intervals over people, and paired comparisons of two networks.

The two knees of a person are similar, so whole subjects are resampled. Everything scored with the same
`SubjectBootstrap` uses the same samples, so differences between networks are paired. `compare` adds McNemar's test.
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
    """Bootstrap samples of subjects. Sample 0 is the original sample.

    Args:
        subject: (N,) subject of every knee.
        replicates: number of bootstrap samples.
        seed: of the resampling.

    Attributes:
        subject_index: (N,) index of the subject of every knee.
        weights: (1 + replicates, S) how often each of the S subjects is in each sample.
    """

    subject: NDArray[np.str_]
    replicates: int = 1000
    seed: int = 0
    subject_index: NDArray[np.int64] = field(init=False)
    weights: Array = field(init=False)

    def __post_init__(self) -> None:
        names, index = np.unique(self.subject, return_inverse=True)
        drawn = np.random.default_rng(self.seed).multinomial(
            len(names), np.full(len(names), 1 / len(names)), self.replicates
        )
        object.__setattr__(self, "subject_index", index)
        object.__setattr__(self, "weights", np.concatenate([np.ones((1, len(names))), drawn]).astype(np.float64))

    def sums(self, values: Array) -> Array:
        """(1 + replicates, …) sums over the knees of every sample.

        Args:
            values: (N, …) one value per knee.
        """
        flat = values.reshape(len(values), -1)
        by_subject = np.zeros((self.weights.shape[1], flat.shape[1]))
        np.add.at(by_subject, self.subject_index, flat)
        return (self.weights @ by_subject).reshape(-1, *values.shape[1:])


def score(predictions: Predictions, bootstrap: SubjectBootstrap, predicted: NDArray[np.int64] | None = None) -> Scores:
    """All metrics of all grades on every bootstrap sample.

    Args:
        predictions: of N knees.
        bootstrap: over their subjects.
        predicted: (N, 7) grades to score; by default the reported grades of `predictions`.

    Returns:
        Grade name → metric → (1 + replicates,), see `matrix_metrics`, with `calibration_error` and, if there are
        prediction sets, `set_coverage` and `set_size`; grades without labels are left out. `oarsi_mean`: means over the
        OARSI grades with labels. `joint`:

        - `auc_kl2`: area under the ROC curve of P(KL ≥ 2);
        - `hard_rule_rate` and `empty_cell_rate`: shares of the predicted seven-tuples that break a hard rule, or that
          do not occur among the 5,507 knees of the packaged joint counts; `incoherence_rate`: either of them;
        - `marginal_shift`: total variation between the mean prediction and the labels' distribution, averaged over
          grades. It is large if the predictions collapse to few grades.
    """
    truth, predicted = predictions.truth(), predictions.guess() if predicted is None else predicted
    scores: Scores = {}
    for index, target in enumerate(TARGETS):
        labelled = truth[:, index] >= 0
        if not labelled.any():
            continue
        matrices = np.zeros((len(truth), target.classes, target.classes))  # one confusion matrix per knee
        matrices[labelled, truth[labelled, index], predicted[labelled, index]] = 1
        scores[target.name] = matrix_metrics(bootstrap.sums(matrices))
        shares = predictions.probabilities[:, target.one_hot].astype(np.float64)
        sums = calibration_sums(truth[:, index], shares) * labelled[:, None, None]
        scores[target.name]["calibration_error"] = calibration_error(bootstrap.sums(sums))
        if predictions.sets is not None:
            scores[target.name] |= _set_scores(predictions.sets, predictions.targets, target, bootstrap)
    oarsi = [scores[name] for name in OARSI_NAMES if name in scores]
    if oarsi:
        scores["oarsi_mean"] = {metric: np.mean([grade[metric] for grade in oarsi], axis=0) for metric in oarsi[0]}
    scores["joint"] = _joint_scores(predictions, truth, predicted, bootstrap)
    return scores


def _set_scores(
    sets: NDArray[np.bool_], targets: NDArray[np.float32], target: Target, bootstrap: SubjectBootstrap
) -> dict[str, Array]:
    """`set_coverage`: how often a set contains the label (a soft label by its probability); `set_size`: mean size."""
    labels, members = targets[:, target.one_hot].astype(np.float64), sets[:, target.one_hot]
    labelled = np.asarray(np.isfinite(labels).all(1))
    covered = (members * np.nan_to_num(labels)).sum(1)
    sums = bootstrap.sums(np.stack([covered, members.sum(1), np.ones(len(members))], axis=1) * labelled[:, None])
    return {"set_coverage": sums[:, 0] / sums[:, 2], "set_size": sums[:, 1] / sums[:, 2]}


def _joint_scores(
    predictions: Predictions, truth: NDArray[np.int64], predicted: NDArray[np.int64], bootstrap: SubjectBootstrap
) -> dict[str, Array]:
    hard, empty = incoherent_tuples(predicted)
    rates = bootstrap.sums(np.stack([hard, empty, hard | empty], axis=1).astype(np.float64)) / bootstrap.sums(
        np.ones((len(predicted), 1))
    )
    labelled = truth[:, 0] >= 0
    at_least_two = predictions.probabilities[labelled, 2:5].astype(np.float64).sum(1)
    weights = bootstrap.weights[:, bootstrap.subject_index[labelled]]
    auc = weighted_auc(truth[labelled, 0] >= 2, at_least_two, weights)
    return {
        "auc_kl2": auc,
        "hard_rule_rate": rates[:, 0],
        "empty_cell_rate": rates[:, 1],
        "incoherence_rate": rates[:, 2],
        "marginal_shift": _marginal_shift(predictions, bootstrap),
    }


def _marginal_shift(predictions: Predictions, bootstrap: SubjectBootstrap) -> Array:
    """Total variation between the mean prediction and the labels' distribution, averaged over grades."""
    shifts = []
    for target in TARGETS:
        labels: Array = predictions.targets[:, target.one_hot].astype(np.float64)
        labelled = np.isfinite(labels[:, 0])
        if labelled.any():
            predicted: Array = predictions.probabilities[:, target.one_hot].astype(np.float64)
            difference = (predicted - np.nan_to_num(labels)) * labelled[:, None]
            count = bootstrap.sums(labelled[:, None].astype(np.float64))
            with np.errstate(invalid="ignore"):
                shifts.append(np.abs(bootstrap.sums(difference) / count).sum(1) / 2)
    return np.asarray(np.mean(shifts, axis=0)) if shifts else np.full(len(bootstrap.weights), np.nan)


def incoherent_tuples(grades: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which predicted tuples break a hard rule (N,), and which do not occur in the packaged joint counts (N,).

    Args:
        grades: (N, 7).
    """
    tuples, row = np.unique(grades, axis=0, return_inverse=True)
    counts = grade_tuple_counts()
    empty = np.array([tuple(values) not in counts for values in tuples.tolist()], dtype=np.bool_)
    return breaks_hard_rule(tuples)[row.reshape(-1)], empty[row.reshape(-1)]


def interval(values: Array) -> tuple[float, float, float]:
    """(value, lower, upper): the value of the original sample and its 95 % percentile interval.

    Args:
        values: (1 + replicates,). NaN replicates are ignored.
    """
    replicates = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(replicates, [0.025, 0.975]) if len(replicates) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def as_json(scores: Scores, predictions: Predictions) -> dict[str, Any]:
    """Scores as one JSON object: grade → {n, metric, metric_interval, …, confusion}, `oarsi_mean`, `auc_kl2` ….

    Numbers are rounded to five decimals. Undefined values (kappa of constants) are null.
    """
    truth, predicted = predictions.truth(), predictions.guess()
    result: dict[str, Any] = {"knees": len(predictions), "subjects": len(np.unique(predictions.subject))}
    for name, metrics in scores.items():
        entry = _with_intervals(metrics)
        if name in TARGET_NAMES:
            index = TARGET_NAMES.index(name)
            labelled = truth[:, index] >= 0
            matrix = confusion(truth[labelled, index], predicted[labelled, index], TARGETS[index].classes)
            entry["confusion"] = matrix.astype(int).tolist()
        result.update(entry if name == "joint" else {name: entry})
    return result


def _with_intervals(metrics: Mapping[str, Array]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for metric, values in metrics.items():
        entry |= {"n": round(float(values[0]))} if metric == "n" else _rounded(metric, interval(values))
    return entry


def _rounded(metric: str, values: tuple[float, float, float]) -> dict[str, Any]:
    """`metric` and `metric_interval` of (value, lower, upper), rounded to five decimals; null where undefined."""
    value, low, high = (round(v, 5) if np.isfinite(v) else None for v in values)
    return {metric: value, f"{metric}_interval": [low, high]}


@dataclass(frozen=True)
class Comparison:
    """Differences between two networks (second − first) on one grade, or on the mean of the OARSI grades.

    Attributes:
        differences: metric → (difference, lower, upper), 95 % by paired bootstrap over subjects.
        only_first: number of knees that only the first network grades correctly.
        only_second: number of knees that only the second network grades correctly.
        p_value: of McNemar's exact two-sided test. The test treats the two knees of a person as independent, so it is
            slightly too small. None for the mean of the OARSI grades.
    """

    differences: dict[str, tuple[float, float, float]]
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values: metric and metric_interval, McNemar's counts and p-value; null where undefined."""
        result: dict[str, Any] = {}
        for metric, values in self.differences.items():
            result |= _rounded(metric, values)
        return {**result, "only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value}


def compare(first: Predictions, second: Predictions, replicates: int = 1000, seed: int = 0) -> dict[str, Comparison]:
    """Comparisons of `second` with `first`, for each grade and "oarsi_mean".

    Raises:
        UsageError: the two are not of the same knees.
    """
    if not first.same_knees(second):
        raise UsageError(
            "The two files of predictions have different knees or labels. A paired comparison needs predictions "
            "of the same knees in the same order; evaluate both networks on the same manifest and split."
        )
    bootstrap = SubjectBootstrap(first.subject, replicates, seed)
    scores = score(first, bootstrap), score(second, bootstrap)
    truth, predicted = first.truth(), (first.guess(), second.guess())
    result = {}
    for name in scores[0]:
        if name == "joint":
            continue
        tested = mcnemar(truth, predicted, TARGET_NAMES.index(name)) if name in TARGET_NAMES else (None, None, None)
        result[name] = Comparison(differences(*scores, name), *tested)
    return result


def differences(first: Scores, second: Scores, name: str) -> dict[str, tuple[float, float, float]]:
    """Metric → second − first with its 95 % interval, for the metrics that both have.

    Args:
        first: scores on one bootstrap.
        second: scores on the same bootstrap.
        name: grade, "oarsi_mean" or "joint".
    """
    shared = (metric for metric in first[name] if metric != "n" and metric in second[name])
    return {metric: interval(second[name][metric] - first[name][metric]) for metric in shared}


def mcnemar(
    truth: NDArray[np.int64], predicted: tuple[NDArray[np.int64], NDArray[np.int64]], index: int
) -> tuple[int, int, float]:
    """Numbers of knees that only the first, and only the second network predicts correctly, and the exact p-value.

    Args:
        truth: (N, 7) grades, −1 where missing.
        predicted: (N, 7) grades of the two networks.
        index: column of the grade.
    """
    labelled = truth[:, index] >= 0
    correct = [grades[labelled, index] == truth[labelled, index] for grades in predicted]
    only_first, only_second = int((correct[0] & ~correct[1]).sum()), int((~correct[0] & correct[1]).sum())
    changed = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, changed).pvalue) if changed else 1.0
