r"""Exact coherence of predicted grades, from the joint distribution of the seven grades.

The seven grades are discrete, so their joint distribution p is a table of 5·4⁶ = 20,480 cells. Under independent
predictions P_i the expected probability of a combination of grades is

    e(P) = Σ_y p(y) Π_i P_i(y_i),

a multilinear form without Gaussians, noise or temperature. −log e is a loss. Because e is linear in each P_i, its
maximum is the most probable cell: used as the only loss, it rewards a collapse of all predictions to that cell.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.schema import CLASSES, GradeTuple

Array = NDArray[np.float64]


class JointTable(nn.Module):
    """Joint distribution of Q grades, as a float32 buffer.

    Args:
        probabilities: (k_1, …, k_Q), positive, with sum 1; axis q is grade q.
    """

    values: Tensor

    def __init__(self, probabilities: Array) -> None:
        super().__init__()
        self.register_buffer("values", torch.from_numpy(np.ascontiguousarray(probabilities)).float())

    def log_expectation(self, probabilities: Tensor) -> Tensor:
        """Return log e(P) = log Σ_y p(y) Π_q P_q(y_q), (B,), in the dtype of the buffer, also under autocast.

        Grades are summed out one after the other, the last one first. Every factor is a probability and every value is
        positive, so nothing overflows; the term of the most probable combination y alone is at least p(y)·Π_q 1/k_q.

        Args:
            probabilities: (B, Σ_q k_q), the Q distributions side by side.
        """
        shape = self.values.shape
        with torch.autocast(probabilities.device.type, enabled=False):
            parts = torch.split(probabilities.to(self.values.dtype), list(shape), dim=1)  # Q times (B, k_q)
            rest: Tensor = self.values.reshape(-1, shape[-1]) @ parts[-1].T  # (Π_{q<Q} k_q, B)
            for part in reversed(parts[:-1]):
                rest = (rest.reshape(-1, part.shape[1], rest.shape[-1]) * part.T).sum(1)
            return rest.squeeze(0).log()  # (B,)


def marginal(table: Array, axis: int) -> Array:
    """Return the sums (k_axis,) of a table over all other axes."""
    return np.asarray(table.sum(tuple(a for a in range(table.ndim) if a != axis)))


def smoothed_table(counts: Mapping[GradeTuple, int], shape: tuple[int, ...] = CLASSES) -> Array:
    """Return the joint distribution estimated from counts, with every cell positive.

    The probability that a new knee falls into a cell without a count is estimated as (number of cells with count 1) / N
    (Good and Turing; 6.3 % for the packaged counts), but at least 1 / N and at most one half. This share of the mass is
    distributed as if the grades were independent given the first one (KL), with half a count added to each conditional
    count. The rest is distributed in proportion to the counts.

    Args:
        counts: combination of grades → number of knees.
        shape: (k_1, …, k_Q) of the table.

    Example:
        >>> table = smoothed_table({(0, 0): 3, (1, 1): 1}, (2, 2))
        >>> table.sum().round(6), table[0, 0].round(3), (table > 0).all()
        (np.float64(1.0), np.float64(0.716), np.True_)
    """
    counted = np.zeros(shape)
    for cell, count in counts.items():
        counted[cell] += count
    total = counted.sum()
    unseen_share = np.clip((counted == 1).sum() / total, 1 / total, 0.5)
    first = marginal(counted, 0) + 0.5
    independent: Array = (first / first.sum()).reshape(-1, *[1] * (counted.ndim - 1))
    for axis in range(1, counted.ndim):
        given_first = counted.sum(tuple(a for a in range(1, counted.ndim) if a != axis)) + 0.5  # (k_1, k_axis)
        given_first = given_first / given_first.sum(1, keepdims=True)
        broadcast = [shape[axis] if a == axis else 1 for a in range(1, counted.ndim)]
        independent = independent * given_first.reshape(-1, *broadcast)
    return np.asarray((1 - unseen_share) * counted / total + unseen_share * independent)


def raked_table(table: Array, marginals: Mapping[int, Array], rounds: int = 200) -> Array:
    """Return the table nearest to `table` that has given marginals, by iterative proportional fitting (raking).

    Args:
        table: positive, with sum 1.
        marginals: axis → (k_axis,) required distribution.
        rounds: number of passes over the axes.
    """
    for _ in range(rounds):
        for axis, required in marginals.items():
            shape = [1] * table.ndim
            shape[axis] = -1
            table = table * (np.asarray(required, dtype=np.float64) / marginal(table, axis)).reshape(shape)
    return np.asarray(table / table.sum())
