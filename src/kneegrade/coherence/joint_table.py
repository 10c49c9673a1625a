r"""Exact coherence: how likely the predicted grades go together, from the joint table itself.

The seven grades are discrete, so their joint distribution is a table of 5·4⁶ = 20,480 cells. Under independent
predictions P_i the expected probability of a tuple is

    e(P) = Σ_y p(y) Π_i P_i(y_i),

one multilinear form, without Gaussians, noise or temperature; −log e is a loss. It is linear in each P_i, so its
optimum is the single most probable cell: as the only loss it rewards collapse to that cell.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.schema import CLASSES, Tuple7

Array = NDArray[np.float64]


class JointTable(nn.Module):
    """A table of what goes together, as a float32 buffer.

    Args:
        probabilities: (k_1, …, k_Q), positive, sum 1; axis q is grade q.
    """

    values: Tensor

    def __init__(self, probabilities: Array) -> None:
        super().__init__()
        self.register_buffer("values", torch.from_numpy(np.ascontiguousarray(probabilities)).float())

    def log_expectation(self, probabilities: Tensor) -> Tensor:
        """Logarithm of Σ_y v(y) Π_q P_q(y_q), (B,), for distributions (B, Σ k_q) side by side; not in half precision.

        Every factor is a probability and every value positive, so nothing overflows, and the likeliest tuple alone
        keeps the sum above v(y)·Π 1/k_q. Grades are summed out one after the other, the last first.
        """
        shape = self.values.shape
        with torch.autocast(probabilities.device.type, enabled=False):
            parts = torch.split(probabilities.to(self.values.dtype), list(shape), dim=1)
            rest: Tensor = self.values.reshape(-1, shape[-1]) @ parts[-1].T  # (Π_{q<Q} k_q, B)
            for own in reversed(parts[:-1]):
                rest = (rest.reshape(-1, own.shape[1], rest.shape[-1]) * own.T).sum(1)
            return rest.squeeze(0).log()


def marginal(table: Array, axis: int) -> Array:
    """(k_axis,) sums of a table over all other axes."""
    return np.asarray(table.sum(tuple(a for a in range(table.ndim) if a != axis)))


def smoothed_table(counts: Mapping[Tuple7, int], shape: tuple[int, ...] = CLASSES) -> Array:
    """The joint distribution behind counted tuples, every cell positive, as a table of `shape`.

    A new knee falls in a cell never seen with a chance of singletons / N (Good and Turing; 6.3 % of the packaged
    counts). That share of the mass is spread as if the grades were independent given the first (KL), with half a
    count added to each (of few knees at least one's share and at most half); the rest stays where it was counted.

    Example:
        >>> table = smoothed_table({(0, 0): 3, (1, 1): 1}, (2, 2))
        >>> table.sum().round(6), table[0, 0].round(3), (table > 0).all()
        (np.float64(1.0), np.float64(0.716), np.True_)
    """
    counted = np.zeros(shape)
    for tuple7, number in counts.items():
        counted[tuple7] += number
    total = counted.sum()
    unseen = np.clip((counted == 1).sum() / total, 1 / total, 0.5)
    first = marginal(counted, 0) + 0.5
    spread: Array = (first / first.sum()).reshape(-1, *[1] * (counted.ndim - 1))
    for axis in range(1, counted.ndim):
        given = counted.sum(tuple(a for a in range(1, counted.ndim) if a != axis)) + 0.5  # (k_1, k_axis)
        given = given / given.sum(1, keepdims=True)
        spread = spread * given.reshape(-1, *[shape[axis] if a == axis else 1 for a in range(1, counted.ndim)])
    return np.asarray((1 - unseen) * counted / total + unseen * spread)


def raked_table(table: Array, marginals: Mapping[int, Array], rounds: int = 200) -> Array:
    """The table nearest to `table` (iterative proportional fitting) whose marginals along some axes are as given.

    Args:
        table: positive, sum 1.
        marginals: axis → (k_axis,) wanted distribution.
        rounds: passes over the axes.
    """
    for _ in range(rounds):
        for axis, wanted in marginals.items():
            shape = [1] * table.ndim
            shape[axis] = -1
            table = table * (np.asarray(wanted, dtype=np.float64) / marginal(table, axis)).reshape(shape)
    return np.asarray(table / table.sum())
