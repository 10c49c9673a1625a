"""Metrics of ordinal grading, computed from confusion matrices.

Arrays of matrices (bootstrap replicates) give arrays of metrics.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Grades = NDArray[np.integer[Any]]
Array = NDArray[np.float64]

CALIBRATION_BINS = 10


def confusion(truth: Grades, predicted: Grades, classes: int) -> Array:
    """(classes, classes) number of knees by true grade (row) and predicted grade (column).

    Args:
        truth: (N,) grades.
        predicted: (N,) grades.
        classes: number of classes.
    """
    counts = np.bincount(truth.astype(np.int64) * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.float64)


def matrix_metrics(matrix: Array) -> dict[str, Array]:
    """Metrics of confusion matrices (…, K, K), each as an array (…); NaN where a matrix is empty.

    Returns:
        `n`: number of knees.
        `accuracy`.
        `balanced_accuracy`: mean recall of the grades that occur.
        `one_off_accuracy`: share of knees at most one grade off.
        `rmse` and `mae`: in grades.
        `kappa`: quadratic-weighted (Cohen 1968), NaN where truth and prediction are constant and equal.
        `majority_accuracy`: accuracy of always predicting the most frequent grade.
    """
    grade = np.arange(matrix.shape[-1])
    off = np.abs(grade[:, None] - grade[None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        n = matrix.sum((-2, -1))
        share = matrix / n[..., None, None]
        true, predicted = share.sum(-1), share.sum(-2)
        recall = np.diagonal(share, axis1=-2, axis2=-1) / true
        square = (share * off**2).sum((-2, -1))
        by_chance = np.einsum("...i,ij,...j->...", true, (off**2).astype(np.float64), predicted)
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


def agreement(truth: Grades, predicted: Grades, classes: int) -> dict[str, float]:
    """Metrics of integer grades (N,), N ≥ 1, as numbers; see `matrix_metrics`.

    Example:
        >>> agreement(np.array([0, 1, 2]), np.array([0, 1, 1]), 3)["accuracy"]
        0.6666666666666666
    """
    return {name: float(value) for name, value in matrix_metrics(confusion(truth, predicted, classes)).items()}


def calibration_sums(truth: Grades, probabilities: Array) -> Array:
    """(N, 10, 2) terms of the expected calibration error: per knee and bin the count, and correctness − confidence.

    Only the bin of the knee's confidence is not zero. Confidence is the probability of the most probable grade; the ten
    bins are equally wide. Sums over knees are the input of `calibration_error`.

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
    """Expected calibration error (…): Σ_bins |correct − confidence| / N; NaN where N is 0.

    Args:
        sums: (…, 10, 2) of `calibration_sums`, summed over knees.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(sums[..., 1]).sum(-1) / sums[..., 0].sum(-1))


def weighted_auc(positive: NDArray[np.bool_], score: Array, weights: Array) -> Array:
    """(…) area under the ROC curve of weighted knees. Ties count half; NaN where one class has no weight.

    Args:
        positive: (N,).
        score: (N,), higher for positive knees.
        weights: (…, N), not negative.
    """
    _, rank = np.unique(score, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    positives, negatives = (
        np.add.reduceat((weights * members)[..., order], starts, axis=-1) for members in (positive, ~positive)
    )
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positives * below).sum(-1) / (positives.sum(-1) * negatives.sum(-1)))
