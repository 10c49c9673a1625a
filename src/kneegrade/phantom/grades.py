"""How often each seven-tuple of grades occurs in a synthetic population, and draws from it."""

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from kneegrade.errors import UsageError
from kneegrade.schema import TARGET_NAMES, grade_tuple_counts

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
