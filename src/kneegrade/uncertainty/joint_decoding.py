r"""Coherent decoding: seven calibrated distributions and what goes together → distributions of grades that agree.

    p(y | image) ∝ Π_q P_q(y_q) / π_q(y_q)^a · p(y)^b,

over all 20,480 tuples y: P_q the calibrated predictions, p the joint table of the calibration population, π_q its
marginals. Independent predictions know of the other grades only through the image; the table adds the rest. With
b = a = 0 nothing changes. b is tuned on calibration knees, together with the calibration
(`kneegrade.uncertainty.calibration`), whose biases do what a would.

The grades given are those of the tuple with the largest product of marginals among those that break no hard rule. With
a ordinal_smoothing c > 0 a near miss counts for something: marginals are first smoothed along their scale,
Σ_j P_q(j)·c^((k−j)²) in place of P_q(k). Readers' agreement is measured by quadratic kappa, where a wrong grade costs
the square of its distance; between KL 0 and 2, equally likely, 1 is then the better answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence import breaks_hard_rule, marginal, one_hot, raked_table
from kneegrade.schema import CLASSES, TARGETS

Array = NDArray[np.float64]

LEAST = 1e-12
CHUNK = 256


@dataclass(frozen=True, eq=False)
class CoherentDecoder:
    """Marginals and grades of predictions under a joint table.

    Attributes:
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution, positive.
        prior_exponent: a.
        joint_exponent: b.
        ordinal_smoothing: c, 0 … 1.
    """

    table: Array
    prior_exponent: float
    joint_exponent: float
    ordinal_smoothing: float = 0.0

    def marginals(self, probabilities: NDArray[np.floating]) -> Array:
        """(N, 29) decoded distributions of calibrated ones (N, 29)."""
        offset = self.joint_exponent * np.log(self.table.reshape(-1))
        prior = np.log(prior_vector(self.table))
        parts = []
        for rows in _chunks(probabilities):
            evidence = np.log(np.maximum(rows, LEAST)) - self.prior_exponent * prior
            scores = evidence @ tuple_layout().T + offset  # (n, 20480)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            parts.append(weights @ tuple_layout() / weights.sum(1, keepdims=True))
        return np.concatenate(parts) if parts else np.empty((0, tuple_layout().shape[1]))

    def grades(self, marginals: NDArray[np.floating]) -> NDArray[np.int64]:
        """(N, 7): the tuple with the largest product of credits among those that break no hard rule."""
        allowed, layout = tuples()[keeps_hard_rules()], tuple_layout()[keeps_hard_rules()]
        credits = smooth_ordinal(marginals, self.ordinal_smoothing)
        best = [(np.log(np.maximum(rows, LEAST)) @ layout.T).argmax(1) for rows in _chunks(credits)]
        return allowed[np.concatenate(best)] if best else np.empty((0, len(TARGETS)), dtype=np.int64)

    def alone(self, marginals: NDArray[np.floating]) -> NDArray[np.int64]:
        """(N, 7): of every grade the value with the largest ordinal_smoothing, whatever the others are."""
        credits = smooth_ordinal(marginals, self.ordinal_smoothing)
        return np.stack([credits[:, target.one_hot].argmax(1) for target in TARGETS], axis=1)


def smooth_ordinal(probabilities: NDArray[np.floating], ordinal_smoothing: float) -> Array:
    """(N, 29): what each grade would earn on average, 1 where it is right and ordinal_smoothing^(d²) where it is d off.

    Example:
        >>> smooth_ordinal(np.array([[0.4, 0.2, 0.4, 0, 0] + [0.25] * 24]), 0.4)[0, :3].round(3).tolist()
        [0.49, 0.52, 0.49]
    """
    earned = np.array(probabilities, dtype=np.float64)
    for target in TARGETS:
        scale = np.arange(target.classes)
        kernel = np.float64(ordinal_smoothing) ** np.square(scale[:, None] - scale)
        earned[:, target.one_hot] = earned[:, target.one_hot] @ kernel
    return earned


def raked_to(table: Array, targets: NDArray[np.floating]) -> Array:
    """The joint table nearest to `table` whose marginals are those of labels (M, 29), half a count added to each grade.

    Grades that no knee has keep the marginal that they had.
    """
    wanted = {}
    for axis, target in enumerate(TARGETS):
        own = targets[:, target.one_hot]
        own = own[np.isfinite(own).all(1)]
        if len(own):
            counted = own.sum(0, dtype=np.float64) + 0.5
            wanted[axis] = counted / counted.sum()
    return raked_table(table, wanted)


def prior_vector(table: Array) -> Array:
    """(29,) the seven marginals of a joint table, one after the other."""
    return np.concatenate([marginal(table, axis) for axis in range(table.ndim)])


def _chunks(rows: NDArray[np.floating]) -> Iterator[Array]:
    for start in range(0, len(rows), CHUNK):
        yield np.asarray(rows[start : start + CHUNK], dtype=np.float64)


@cache
def tuples() -> NDArray[np.int64]:
    """(20480, 7) all seven-tuples of grades, in the order of a flattened table."""
    return np.stack(np.meshgrid(*(np.arange(k) for k in CLASSES), indexing="ij"), -1).reshape(-1, len(CLASSES))


@cache
def tuple_layout() -> Array:
    """(20480, 29) one-hot rows of `tuples`."""
    return one_hot(tuples())


@cache
def keeps_hard_rules() -> NDArray[np.bool_]:
    """(20480,) which of `tuples` break no hard rule."""
    return ~breaks_hard_rule(tuples())
