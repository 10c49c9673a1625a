"""A second reader: labels that differ from the truth as human readings do, to study label audits and ceilings."""

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from kneegrade.phantom.grades import tuple_probabilities
from kneegrade.schema import TARGET_NAMES, TARGETS

Array = NDArray[np.float64]

KAPPA = {"kl": 0.8, "jsn": 0.9, "osteophyte": 0.75}  # quadratic-weighted, of the reader with the truth
POPULATION = "paper"  # on which these hold


@cache
def reader_confusion(name: str) -> Array:
    """P(read j | truth i) as a matrix (classes, classes), rows summing to 1.

    The reader sees the grade through normal noise and rounds: P(j | i) = Φ((j + ½ - i) / s) - Φ((j - ½ - i) / s), with
    all that lies beyond the scale in its end grades; s is solved for the kappa of `KAPPA` at the paper's prevalence.

    Args:
        name: of a grade.
    """
    number = TARGET_NAMES.index(name)
    classes = TARGETS[number].classes
    tuples, probabilities = tuple_probabilities(POPULATION)
    prior = np.asarray(np.bincount(tuples[:, number], probabilities, minlength=classes), dtype=np.float64)
    wanted = KAPPA[name.split("_")[0]]
    width = brentq(lambda s: expected_kappa(_rounded_noise(classes, s), prior) - wanted, 0.05, 3.0)
    return _rounded_noise(classes, float(width))


def _rounded_noise(classes: int, width: float) -> Array:
    edges = np.concatenate([[-np.inf], np.arange(classes - 1) + 0.5, [np.inf]])
    return np.asarray(np.diff(norm.cdf((edges[None, :] - np.arange(classes)[:, None]) / width), axis=1))


def expected_kappa(confusion: Array, prior: Array) -> float:
    """Quadratic-weighted kappa of truth and reading for a confusion matrix and the truth's prevalence (classes,)."""
    joint = prior[:, None] * confusion
    grade = np.arange(len(prior))
    square = (grade[:, None] - grade[None, :]) ** 2
    by_chance = prior[:, None] * joint.sum(axis=0)[None, :]
    return float(1 - (square * joint).sum() / (square * by_chance).sum())


def second_reading(grades: Mapping[str, int], seed: int, index: int) -> dict[str, int]:
    """What a second reader says of knee `index` of population `seed`; errors of the seven grades are independent."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 12]))
    rows = {name: reader_confusion(name)[grade] for name, grade in grades.items()}
    return {name: int(rng.choice(len(row), p=row)) for name, row in rows.items()}
