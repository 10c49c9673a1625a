"""Agreement between two sets of grades."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

Grades = NDArray[np.integer[Any]]


def agreement(truth: Grades, guess: Grades, classes: int) -> dict[str, float]:
    """Number of knees, accuracy, root mean square error and quadratic-weighted kappa of integer grades (N,), N ≥ 1.

    Kappa is NaN where both readings are constant and equal.

    Example:
        >>> agreement(np.array([0, 1, 2]), np.array([0, 1, 1]), 3)["accuracy"]
        0.6666666666666666
    """
    difference = truth.astype(float) - guess
    with np.errstate(invalid="ignore"):
        kappa = cohen_kappa_score(truth, guess, labels=np.arange(classes), weights="quadratic")
    return {
        "n": float(len(truth)),
        "accuracy": float((difference == 0).mean()),
        "rmse": float(np.sqrt((difference**2).mean())),
        "kappa": float(kappa),
    }
