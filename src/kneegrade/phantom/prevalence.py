"""Readers of phantoms: labels that differ from the truth as human readings do, to study label audits and ceilings.

`second_reading` errs in every grade on its own, which makes labels that do not go together: what an audit looks for.
`coherent_reading` errs as a reader who knows what goes together: its seven-tuples are distributed as the truth's, which
is what a network learns from in the paper's cohort.

How often each seven-tuple of grades occurs in a synthetic population, and draws from it.
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
NATURAL_KL = (0.42, 0.20, 0.22, 0.12, 0.04)  # knees of a cohort at risk, whoever was read for osteophytes
UNIFORM_KL = (0.2, 0.2, 0.2, 0.2, 0.2)
RAKING_ROUNDS = 200


@cache
def tuple_probabilities(prevalence: Prevalence) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Seven-tuples (786, 7) and their probabilities (786,) in a population.

    The packaged joint counts are raked (iterative proportional fitting) to the wanted marginals: of all seven grades
    for "paper", of Kellgren-Lawrence alone for "natural" and "uniform". Tuples never seen stay impossible.

    Raises:
        UsageError: the population is unknown.
    """
    if prevalence not in get_args(Prevalence):
        raise UsageError(f"Prevalence {prevalence!r} was given; one of {', '.join(get_args(Prevalence))} is expected.")
    counts = grade_tuple_counts()
    tuples = np.array(list(counts), dtype=np.int64)
    weights = np.array(list(counts.values()), dtype=np.float64)
    marginals = PAPER_COUNTS if prevalence == "paper" else {"kl": UNIFORM_KL if prevalence == "uniform" else NATURAL_KL}
    for _ in range(RAKING_ROUNDS):
        for name, wanted in marginals.items():
            column = tuples[:, TARGET_NAMES.index(name)]
            present = np.bincount(column, weights, minlength=len(wanted))
            weights = weights * (np.asarray(wanted) / sum(wanted) / present)[column]
    return tuples, weights / weights.sum()


def grades_at(score: float, prevalence: Prevalence) -> dict[str, int]:
    """The seven grades, by name in the order of the schema, at a normal score of severity.

    The population's tuples are ranked by Kellgren-Lawrence grade, then by the sum of the others; the tuple is the one
    at the quantile Φ(score), so standard normal scores give the population, and correlated scores of two knees give
    correlated knees (a Gaussian copula).
    """
    tuples, upper = _ranked(prevalence)
    chosen = tuples[min(int(np.searchsorted(upper, norm.cdf(score), side="right")), len(tuples) - 1)]
    return {name: int(grade) for name, grade in zip(TARGET_NAMES, chosen, strict=True)}


@cache
def _ranked(prevalence: Prevalence) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tuples from mild to severe and the cumulative probability up to each."""
    tuples, probabilities = tuple_probabilities(prevalence)
    order = np.lexsort((*tuples.T[:0:-1], tuples[:, 1:].sum(axis=1), tuples[:, 0]))
    return tuples[order], np.cumsum(probabilities[order])


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


NOISE = {"kl": 0.7, "jsn": 0.45, "osteophyte": 0.75}  # standard deviations, in grades, of what a reader sees


def coherent_reading(grades: Mapping[str, int], seed: int, index: int, prevalence: Prevalence) -> dict[str, int]:
    """What a reader who sees all seven grades through noise says of knee `index` of population `seed`.

    The reader sees z = y + ε, ε normal with `NOISE`, and reports a seven-tuple drawn from P(y' | z) ∝ p(y') φ(z − y'),
    p the population's joint distribution. Truth and reading are then exchangeable: the readings have exactly the
    population's joint distribution, and two readers agree as one reader with the truth. On `paper` prevalence the
    quadratic kappas are about 0.87 (KL), 0.92 and 0.88 (narrowing) and 0.72 to 0.81 (osteophytes).
    """
    tuples, log_prior, widths = _readable(prevalence)
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 13]))
    seen = np.array([grades[name] for name in TARGET_NAMES]) + rng.normal(size=len(widths)) * widths
    log_posterior = log_prior - 0.5 * (((seen - tuples) / widths) ** 2).sum(axis=1)
    posterior = np.exp(log_posterior - log_posterior.max())
    chosen = tuples[rng.choice(len(tuples), p=posterior / posterior.sum())]
    return {name: int(grade) for name, grade in zip(TARGET_NAMES, chosen, strict=True)}


@cache
def _readable(prevalence: Prevalence) -> tuple[NDArray[np.int64], Array, Array]:
    """Tuples (M, 7), their log-probabilities (M,) and the noise of each grade (7,)."""
    tuples, probabilities = tuple_probabilities(prevalence)
    widths = np.array([NOISE[name.split("_")[0]] for name in TARGET_NAMES])
    return tuples, np.log(probabilities), widths
