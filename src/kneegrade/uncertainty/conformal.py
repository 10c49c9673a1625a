r"""Contiguous conformal prediction sets: neighbouring grades that contain the true grade with a stated probability.

A knee's set starts with the most probable grade and grows step by step by the more probable of its two neighbours on
the scale. Let m(y) be the probability mass of the set before grade y joins it (0 for the most probable grade). The set
is {y : m(y) ≤ q}, where q is the ⌈(n + 1)·level⌉-th smallest m of the true grades of n calibration knees. This is split
conformal prediction (Vovk; Papadopoulos et al. 2002) with the score of adaptive prediction sets (Romano et al., NeurIPS
2020), restricted to contiguous sets.

Guarantee: for knees that are exchangeable with the calibration knees, the set contains the true grade with probability
`level` or more, however good or bad the network is. The two knees of a person are similar, so the real guarantee is
slightly weaker. If the most probable grade alone is correct more often than `level`, then q = 0 and the set is that one
grade. The probabilities must have been calibrated on other knees.

A soft label counts with its probability at every grade.

The guarantee does not hold for a knee that differs from the calibration knees. Such knees (those with a finding of
quality control) get wider sets: with the thresholds of a stricter level, at which sets miss half as often
(`stricter_level`: 0.95 for 0.9). How much wider would be enough is not known for a knee unlike those at hand.
"""

from collections.abc import Collection
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.schema import TARGETS

Array = NDArray[np.float64]


class ConformalSets(nn.Module):
    """The seven thresholds q, in the order of the schema, and the level that they were fitted for.

    Attributes:
        threshold: (7,) q, 0 … 1. A new instance has 1: every set is the whole scale.
        strict_threshold: (7,) q of the wider sets of unusual knees, at `stricter_level(level)`.
        level: scalar, the nominal coverage.
    """

    threshold: Tensor
    strict_threshold: Tensor
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.ones(len(TARGETS)))
        self.register_buffer("strict_threshold", torch.ones(len(TARGETS)))
        self.register_buffer("level", torch.ones(()))

    def keep(self, previous: "ConformalSets", names: Collection[str]) -> None:
        """Take over the thresholds of the grades `names` from other sets."""
        for index, target in enumerate(TARGETS):
            if target.name in names:
                self.threshold[index] = previous.threshold[index]
                self.strict_threshold[index] = previous.strict_threshold[index]

    def sets(
        self,
        probabilities: NDArray[np.floating],
        grades: NDArray[np.int64],
        unusual: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """(N, 29) bool: which grades are in the sets.

        A set is extended to the reported grade where it does not contain it, including the grades in between.

        Args:
            probabilities: (N, 29) calibrated probabilities.
            grades: (N, 7) reported grades.
            unusual: (N,) knees that get the wider sets; None for no knee.
        """
        members, before = np.zeros(probabilities.shape, dtype=np.bool_), _mass_before_all(probabilities)
        strict = np.zeros(len(probabilities), dtype=np.bool_) if unusual is None else unusual
        for index, target in enumerate(TARGETS):
            limit = np.where(strict, float(self.strict_threshold[index]), float(self.threshold[index]))
            inside = before[:, target.one_hot] <= limit[:, None]
            scale, reported = np.arange(target.classes), grades[:, index, None]
            low = np.minimum(inside.argmax(1)[:, None], reported)
            high = np.maximum(target.classes - 1 - inside[:, ::-1].argmax(1)[:, None], reported)
            members[:, target.one_hot] = (scale >= low) & (scale <= high)
        return members


def mass_before(probabilities: NDArray[np.floating]) -> Array:
    """(N, K) probability mass of a knee's set before each grade joins it.

    Args:
        probabilities: (N, K) distributions of one grade.

    Example:
        >>> mass_before(np.array([[0.1, 0.3, 0.5, 0.1]])).round(3).tolist()
        [[0.8, 0.5, 0.0, 0.9]]
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    rows, classes = np.arange(len(shares)), shares.shape[1]
    padded = np.full((len(shares), classes + 2), -1.0)
    padded[:, 1:-1] = shares
    low = high = shares.argmax(1)
    before, mass = np.zeros_like(shares), shares.max(1)
    for _ in range(classes - 1):
        left, right = padded[rows, low], padded[rows, high + 2]
        down = left >= right
        joins = np.where(down, low - 1, high + 1)
        before[rows, joins] = mass
        mass = np.minimum(mass + np.where(down, left, right), 1.0)  # floating-point sums may exceed 1
        low, high = np.where(down, low - 1, low), np.where(down, high, high + 1)
    return before


def _mass_before_all(probabilities: NDArray[np.floating]) -> Array:
    """(N, 29) `mass_before` of all seven grades; those of one number of classes together, which is faster."""
    before = np.empty(probabilities.shape)
    for positions in _positions():
        classes = positions.shape[1]
        together = mass_before(probabilities[:, positions].reshape(-1, classes))
        before[:, positions] = together.reshape(len(probabilities), -1, classes)
    return before


@cache
def _positions() -> tuple[NDArray[np.intp], ...]:
    """For each number of classes, the (grades, classes) positions among the 29 of the grades that have it."""
    return tuple(
        np.stack([np.arange(t.one_hot.start, t.one_hot.stop) for t in TARGETS if t.classes == classes])
        for classes in sorted({target.classes for target in TARGETS})
    )


def fit_sets(probabilities: NDArray[np.floating], targets: NDArray[np.floating], level: float = 0.9) -> ConformalSets:
    """Prediction sets that contain the true grade of a new knee with probability `level` or more.

    Args:
        probabilities: (M, 29), of knees that neither the network nor the calibration was fitted on.
        targets: (M, 29) label distributions, NaN where missing. A grade without any label gets the whole scale.
        level: nominal coverage, 0 … 1. The thresholds of unusual knees are fitted at `stricter_level(level)`.
    """
    fitted = ConformalSets()
    fitted.level.fill_(level)
    strict_level = stricter_level(level)
    for index, target in enumerate(TARGETS):
        labels = targets[:, target.one_hot]
        present = np.isfinite(labels).all(1)
        scores = mass_before(probabilities[present][:, target.one_hot]).reshape(-1)
        weights = np.asarray(labels[present], dtype=np.float64).reshape(-1)
        order = np.argsort(scores, kind="stable")
        mass, ordered = weights[order].cumsum(), scores[order]
        fitted.threshold[index] = _quantile(ordered, mass, level * (present.sum() + 1))
        fitted.strict_threshold[index] = _quantile(ordered, mass, strict_level * (present.sum() + 1))
    return fitted


def stricter_level(level: float) -> float:
    """Nominal coverage of the sets of unusual knees: they may miss the true grade half as often.

    Example:
        >>> round(stricter_level(0.9), 3)
        0.95
    """
    return 1 - (1 - level) / 2


def _quantile(scores: Array, mass: Array, wanted: float) -> float:
    """The first of the sorted scores at which the cumulative mass reaches `wanted`, rounded up; 1 if it never does."""
    reached = np.flatnonzero(mass >= wanted - 1e-9)
    return _rounded_up(scores[reached[0]]) if len(reached) else 1.0


def _rounded_up(value: float) -> float:
    """The smallest float32 that is not below the value.

    Weights are stored in float32. Rounding down would exclude the knee that determines the threshold.
    """
    nearest = np.float32(value)
    return float(nearest if nearest >= value else np.nextafter(nearest, np.float32(2)))
