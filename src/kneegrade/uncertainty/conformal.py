r"""Contiguous prediction sets: neighbouring grades that hold the true one with a stated probability.

A knee's set starts with its likeliest grade and grows by the likelier of the two grades next to it. With m(y) the
probability that the set holds before grade y joins it (0 for the likeliest), the set is {y : m(y) ≤ q}, and q is the
⌈(n + 1)·level⌉-th smallest m of the true grades of n calibration knees: split conformal prediction (Vovk; Papadopoulos
et al. 2002) with the score of adaptive sets (Romano et al., NeurIPS 2020), made to grow along the scale. Of knees like
the calibration knees `level` or more have their true grade in the set, whatever the network is worth, as far as knees
can be exchanged (the two of a person are alike, so a little less is promised); where the likeliest grade alone is right
more often than that, q = 0 and the set is that grade. What the probabilities were tuned on must be other knees.

A soft label counts with its probability at every grade.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.schema import TARGETS

Array = NDArray[np.float64]


class ConformalSets(nn.Module):
    """The seven thresholds q, in the order of the schema, and the level that they were fitted for."""

    threshold: Tensor
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.ones(len(TARGETS)))
        self.register_buffer("level", torch.ones(()))

    def sets(self, probabilities: NDArray[np.floating], grades: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N, 29) bool: which grades are in the sets; those between a set and the grade given join it.

        Args:
            probabilities: (N, 29).
            grades: (N, 7) that are given.
        """
        found = np.zeros(probabilities.shape, dtype=np.bool_)
        for index, target in enumerate(TARGETS):
            own = mass_before(probabilities[:, target.one_hot]) <= float(self.threshold[index])
            scale, given = np.arange(target.classes), grades[:, index, None]
            low = np.minimum(own.argmax(1)[:, None], given)
            high = np.maximum(target.classes - 1 - own[:, ::-1].argmax(1)[:, None], given)
            found[:, target.one_hot] = (scale >= low) & (scale <= high)
        return found


def mass_before(probabilities: NDArray[np.floating]) -> Array:
    """(N, K): the probability that a knee's set holds before each grade joins it.

    Example:
        >>> mass_before(np.array([[0.1, 0.3, 0.5, 0.1]])).round(3).tolist()
        [[0.8, 0.5, 0.0, 0.9]]
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    rows, classes = np.arange(len(shares)), shares.shape[1]
    padded = np.pad(shares, ((0, 0), (1, 1)), constant_values=-1.0)
    low = high = shares.argmax(1)
    before, held = np.zeros_like(shares), shares.max(1)
    for _ in range(classes - 1):
        left, right = padded[rows, low], padded[rows, high + 2]
        down = left >= right
        joins = np.where(down, low - 1, high + 1)
        before[rows, joins] = held
        held = np.minimum(held + np.where(down, left, right), 1.0)  # sums of floats may pass 1
        low, high = np.where(down, low - 1, low), np.where(down, high, high + 1)
    return before


def fit_sets(probabilities: NDArray[np.floating], targets: NDArray[np.floating], level: float = 0.9) -> ConformalSets:
    """Sets that hold the true grade of a new knee with probability `level` or more.

    Args:
        probabilities: (M, 29), of knees not trained on.
        targets: (M, 29) their labels as distributions, NaN where missing; a grade that no knee has gets whole scales.
        level: 0 … 1.
    """
    fitted = ConformalSets()
    fitted.level.fill_(level)
    for index, target in enumerate(TARGETS):
        wanted = targets[:, target.one_hot]
        present = np.isfinite(wanted).all(1)
        scores = mass_before(probabilities[present][:, target.one_hot]).reshape(-1)
        weights = np.asarray(wanted[present], dtype=np.float64).reshape(-1)
        order = np.argsort(scores, kind="stable")
        reached = np.flatnonzero(weights[order].cumsum() >= level * (present.sum() + 1) - 1e-9)
        fitted.threshold[index] = _rounded_up(scores[order][reached[0]]) if len(reached) else 1.0
    return fitted


def _rounded_up(value: float) -> float:
    """In float32, as weights are kept, and not below the value: the knee that sets a threshold stays within."""
    nearest = np.float32(value)
    return float(nearest if nearest >= value else np.nextafter(nearest, np.float32(2)))
