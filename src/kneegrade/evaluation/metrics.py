"""Metrics of grading, from confusion matrices; arrays of matrices (bootstrap replicates) give arrays of metrics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Grades = NDArray[np.integer[Any]]
Array = NDArray[np.float64]

CALIBRATION_BINS = 10


def confusion(truth: Grades, guess: Grades, classes: int) -> Array:
    """(classes, classes) number of knees by true grade (row) and guessed grade (column)."""
    counted = np.bincount(truth.astype(np.int64) * classes + guess, minlength=classes**2)
    return counted.reshape(classes, classes).astype(np.float64)


def matrix_metrics(matrix: Array) -> dict[str, Array]:
    """Metrics of confusion matrices (…, K, K), each as an array (…); NaN where a matrix is empty.

    `n`; `accuracy`; `balanced_accuracy`: mean recall of the grades that occur; `one_off_accuracy`: share at most one
    grade off; `rmse` and `mae` in grades; `kappa`: quadratic-weighted (Cohen 1968), NaN where truth and guess are
    constant and equal; `majority_accuracy`: of always saying the commonest grade.
    """
    grade = np.arange(matrix.shape[-1])
    off = np.abs(grade[:, None] - grade[None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        n = matrix.sum((-2, -1))
        share = matrix / n[..., None, None]
        true, said = share.sum(-1), share.sum(-2)
        recall = np.diagonal(share, axis1=-2, axis2=-1) / true
        square = (share * off**2).sum((-2, -1))
        by_chance = np.einsum("...i,ij,...j->...", true, (off**2).astype(np.float64), said)
        occurring = (true > 0).sum(-1)
        return {
            "n": n,
            "accuracy": np.diagonal(share, axis1=-2, axis2=-1).sum(-1),
            "balanced_accuracy": np.nansum(recall, axis=-1) / occurring,
            "one_off_accuracy": (share * (off <= 1)).sum((-2, -1)),
            "rmse": np.sqrt(square),
            "mae": (share * off).sum((-2, -1)),
            "kappa": 1 - square / by_chance,
            "majority_accuracy": true.max(-1),
        }


def agreement(truth: Grades, guess: Grades, classes: int) -> dict[str, float]:
    """Metrics of integer grades (N,), N ≥ 1, as numbers; see `matrix_metrics`.

    Example:
        >>> agreement(np.array([0, 1, 2]), np.array([0, 1, 1]), 3)["accuracy"]
        0.6666666666666666
    """
    return {name: float(value) for name, value in matrix_metrics(confusion(truth, guess, classes)).items()}


def calibration_sums(truth: Grades, probabilities: Array) -> Array:
    """(N, 10, 2): by bin of confidence, of every knee its one: 1, and whether it is right less how sure it was.

    Sums over knees go to `calibration_error`. Bins are ten equal ones of the likeliest grade's probability.

    Args:
        truth: (N,) grades.
        probabilities: (N, classes).
    """
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = np.zeros((len(truth), CALIBRATION_BINS, 2))
    rows = np.arange(len(truth))
    sums[rows, bins, 0] = 1
    sums[rows, bins, 1] = (probabilities.argmax(1) == truth) - confidence
    return sums


def calibration_error(sums: Array) -> Array:
    """Expected calibration error: Σ_bins |right − sure| / N of sums (…, 10, 2); NaN where N is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(sums[..., 1]).sum(-1) / sums[..., 0].sum(-1))


def weighted_auc(positive: NDArray[np.bool_], score: Array, weights: Array) -> Array:
    """Area under the ROC curve with weights (…, N) of the knees, ties counted half; NaN where one kind has no weight.

    Args:
        positive: (N,).
        score: (N,), higher for positive knees.
        weights: (…, N), not negative.
    """
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    ups, downs = (np.add.reduceat((weights * kind)[..., order], starts, axis=-1) for kind in (positive, ~positive))
    below = np.cumsum(downs, axis=-1) - downs / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ups * below).sum(-1) / (ups.sum(-1) * downs.sum(-1)))
