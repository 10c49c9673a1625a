"""Grades of a synthetic population: their joint distribution, draws from it, and readings with human-like errors.

Readings are labels that differ from the truth as human readings do, for studies of label audits and of the agreement
that is possible at most. `second_reading` makes independent errors in each grade, which gives combinations of grades
that do not occur in the population; a label audit searches for them. `coherent_reading` draws the seven grades jointly
from the population's distribution, so that the readings are distributed like the truth, as in the cohort of the paper.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from kneegrade.errors import UsageError
from kneegrade.schema import TARGET_NAMES, TARGETS, grade_tuple_counts

Array = NDArray[np.float64]
Prevalence = Literal["paper", "natural", "uniform"]

# Zheng et al. (MICCAI 2021), Table 1, images per grade; JSN and osteophyte columns are lateral, then medial.
PAPER_COUNTS: dict[str, tuple[int, ...]] = {
    "kl": (2827, 2930, 10231, 5578, 1683),
    "jsn_lateral": (20207, 1337, 1197, 508),
    "jsn_medial": (10676, 6884, 4506, 1183),
    "osteophyte_femur_lateral": (13646, 5554, 2045, 2004),
    "osteophyte_femur_medial": (11728, 5319, 2486, 3716),
    "osteophyte_tibia_lateral": (13976, 6124, 1373, 1776),
    "osteophyte_tibia_medial": (8043, 10870, 2552, 1784),
}
NATURAL_KL = (0.42, 0.20, 0.22, 0.12, 0.04)  # all knees of a cohort at risk, not only those with osteophyte readings
UNIFORM_KL = (0.2, 0.2, 0.2, 0.2, 0.2)
RAKING_ROUNDS = 200
KAPPA = {"kl": 0.8, "jsn": 0.9, "osteophyte": 0.75}  # quadratic-weighted kappa between `second_reading` and truth
KAPPA_PREVALENCE: Prevalence = "paper"  # population for which `KAPPA` holds
NOISE = {"kl": 0.7, "jsn": 0.45, "osteophyte": 0.75}  # noise of `coherent_reading`, standard deviation in grades


@cache
def tuple_probabilities(prevalence: Prevalence) -> tuple[NDArray[np.int64], Array]:
    """Seven-tuples (786, 7) and their probabilities (786,) in a population.

    The packaged joint counts are raked (iterative proportional fitting) to the target marginals: those of all seven
    grades for "paper", only those of Kellgren–Lawrence for "natural" and "uniform". Tuples that do not occur in the
    counts keep the probability 0.

    Raises:
        UsageError: the population is unknown.
    """
    if prevalence not in get_args(Prevalence):
        raise UsageError(f"Prevalence {prevalence!r} is unknown; expected one of {', '.join(get_args(Prevalence))}.")
    counts = grade_tuple_counts()
    tuples = np.array(list(counts), dtype=np.int64)
    weights = np.array(list(counts.values()), dtype=np.float64)
    marginals = PAPER_COUNTS if prevalence == "paper" else {"kl": UNIFORM_KL if prevalence == "uniform" else NATURAL_KL}
    for _ in range(RAKING_ROUNDS):
        for name, target in marginals.items():
            column = tuples[:, TARGET_NAMES.index(name)]
            present = np.bincount(column, weights, minlength=len(target))
            weights = weights * (np.asarray(target) / sum(target) / present)[column]
    return tuples, weights / weights.sum()


def grades_at(score: float, prevalence: Prevalence) -> dict[str, int]:
    """The seven grades, by name in the order of the schema, at a severity score.

    The tuples of the population are ranked by Kellgren–Lawrence grade, then by the sum of the other grades. The result
    is the tuple at the quantile Φ(score). Standard normal scores therefore give the distribution of the population, and
    correlated scores of two knees give correlated grades (a Gaussian copula).
    """
    tuples, upper = _ranked(prevalence)
    chosen = tuples[min(int(np.searchsorted(upper, norm.cdf(score), side="right")), len(tuples) - 1)]
    return {name: int(grade) for name, grade in zip(TARGET_NAMES, chosen, strict=True)}


@cache
def _ranked(prevalence: Prevalence) -> tuple[NDArray[np.int64], Array]:
    """Tuples (786, 7) from mild to severe, and their cumulative probabilities (786,)."""
    tuples, probabilities = tuple_probabilities(prevalence)
    order = np.lexsort((*tuples.T[:0:-1], tuples[:, 1:].sum(axis=1), tuples[:, 0]))
    return tuples[order], np.cumsum(probabilities[order])


@cache
def reader_confusion(name: str) -> Array:
    """Confusion matrix (classes, classes) of `second_reading`: P(read j | truth i), each row with sum 1.

    The reader adds normal noise to the grade and rounds: P(j | i) = Φ((j + ½ - i) / s) - Φ((j - ½ - i) / s), where
    values outside the scale count as the lowest or highest grade. The noise s is solved for so that the
    quadratic-weighted kappa is that of `KAPPA` at the paper's prevalence.

    Args:
        name: name of a grade.
    """
    number = TARGET_NAMES.index(name)
    classes = TARGETS[number].classes
    tuples, probabilities = tuple_probabilities(KAPPA_PREVALENCE)
    prior = np.asarray(np.bincount(tuples[:, number], probabilities, minlength=classes), dtype=np.float64)
    target = KAPPA[name.split("_")[0]]
    noise_sd = brentq(lambda s: expected_kappa(_rounded_noise(classes, s), prior) - target, 0.05, 3.0)
    return _rounded_noise(classes, float(noise_sd))


def _rounded_noise(classes: int, noise_sd: float) -> Array:
    """P(read j | truth i) of a grade with normal noise that is rounded, (classes, classes)."""
    edges = np.concatenate([[-np.inf], np.arange(classes - 1) + 0.5, [np.inf]])
    return np.asarray(np.diff(norm.cdf((edges[None, :] - np.arange(classes)[:, None]) / noise_sd), axis=1))


def expected_kappa(confusion: Array, prior: Array) -> float:
    """Quadratic-weighted kappa between truth and reading, given the confusion matrix and the truth's distribution."""
    joint = prior[:, None] * confusion
    grade = np.arange(len(prior))
    square = (grade[:, None] - grade[None, :]) ** 2
    by_chance = prior[:, None] * joint.sum(axis=0)[None, :]
    return float(1 - (square * joint).sum() / (square * by_chance).sum())


def second_reading(grades: Mapping[str, int], seed: int, index: int) -> dict[str, int]:
    """Grades of knee `index` of population `seed` as a second reader reads them, with independent errors per grade."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 12]))
    rows = {name: reader_confusion(name)[grade] for name, grade in grades.items()}
    return {name: int(rng.choice(len(row), p=row)) for name, row in rows.items()}


def coherent_reading(grades: Mapping[str, int], seed: int, index: int, prevalence: Prevalence) -> dict[str, int]:
    """Grades of knee `index` of population `seed` read by a reader who knows which grades occur together.

    The reader observes z = y + ε, where ε is normal with the standard deviations `NOISE`, and reports a seven-tuple
    drawn from P(y' | z) ∝ p(y') φ(z − y'), where p is the population's joint distribution. Truth and reading are then
    exchangeable: the readings have exactly the population's joint distribution. For the `paper` prevalence the
    quadratic-weighted kappas with the truth are about 0.87 (KL), 0.92 and 0.88 (joint space narrowing) and 0.72 to 0.81
    (osteophytes).
    """
    tuples, log_prior, noise_sd = _reading_model(prevalence)
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 13]))
    observed = np.array([grades[name] for name in TARGET_NAMES]) + rng.normal(size=len(noise_sd)) * noise_sd
    log_posterior = log_prior - 0.5 * (((observed - tuples) / noise_sd) ** 2).sum(axis=1)
    posterior = np.exp(log_posterior - log_posterior.max())
    chosen = tuples[rng.choice(len(tuples), p=posterior / posterior.sum())]
    return {name: int(grade) for name, grade in zip(TARGET_NAMES, chosen, strict=True)}


@cache
def _reading_model(prevalence: Prevalence) -> tuple[NDArray[np.int64], Array, Array]:
    """Tuples (M, 7), their log-probabilities (M,), and the standard deviation of each grade's noise (7,)."""
    tuples, probabilities = tuple_probabilities(prevalence)
    noise_sd = np.array([NOISE[name.split("_")[0]] for name in TARGET_NAMES])
    return tuples, np.log(probabilities), noise_sd
