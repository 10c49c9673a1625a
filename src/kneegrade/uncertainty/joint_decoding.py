r"""Joint decoding: seven calibrated distributions and a joint distribution of grades → coherent marginals and grades.

    p(y | image) ∝ Π_q P_q(y_q) / π_q(y_q)^a · p(y)^b,

over all 20,480 tuples y. P_q are the calibrated predictions, p is the joint table of the calibration population, and
π_q are its marginals. Independent predictions are related to each other only through the image; the table adds which
grades occur together. With b = a = 0 the predictions do not change. b is tuned on calibration knees together with the
calibration (`kneegrade.uncertainty.calibration`), whose biases replace a.

The reported grades are the tuple with the largest product of marginals among the tuples that break no hard rule. With
an ordinal smoothing c > 0 the neighbours of a grade count too: the marginals are first smoothed along their scale,
Σ_j P_q(j)·c^((k−j)²) in place of P_q(k). Agreement between readers is measured by quadratic kappa, where the cost of an
error is the square of its distance. If KL 0 and KL 2 are equally probable, KL 1 is then the better prediction.

KL ≥ 2 beside six OARSI zeros is rare (1.1 % of knees with KL 2 in the OAI), but the largest product of marginals is
often such a tuple: seven grades that are each the most probable one need not be probable together. Such a tuple is
reported only if it is more probable than not that the knee has such grades. The marginals alone bound this probability
from below (Bonferroni),

    P(KL ≥ 2 and all six OARSI grades 0) ≥ 1 − P(KL < 2) − Σ_q P_q(OARSI grade q ≥ 1),

and the bound must be above `MIN_SUPPORT`. Otherwise the best of the other tuples is reported: KL falls to 1, or an
OARSI grade rises to 1, whichever costs less probability.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from kneegrade.coherence import breaks_hard_rule, marginal, one_hot, raked_table
from kneegrade.schema import CLASSES, TARGETS

Array = NDArray[np.float64]

LEAST_PROBABILITY = 1e-12  # keeps logarithms finite
CHUNK = 256  # knees that are decoded together
MIN_SUPPORT = 0.5  # of KL >= 2 beside six OARSI zeros: more probable than not


@dataclass(frozen=True, eq=False)
class CoherentDecoder:
    """Marginals and grades of calibrated predictions under a joint table.

    Attributes:
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution, all entries positive.
        prior_exponent: a.
        joint_exponent: b.
        ordinal_smoothing: c, 0 … 1.
    """

    table: Array
    prior_exponent: float
    joint_exponent: float
    ordinal_smoothing: float = 0.0

    @cached_property
    def _log_joint(self) -> Array:
        """(20480,) b·log p."""
        return self.joint_exponent * np.log(self.table.reshape(-1))

    @cached_property
    def _log_prior(self) -> Array:
        """(29,) a·log π."""
        return self.prior_exponent * np.log(prior_vector(self.table))

    def marginals(self, probabilities: NDArray[np.floating]) -> Array:
        """(N, 29) decoded marginals.

        Args:
            probabilities: (N, 29) calibrated distributions.
        """
        parts = []
        for rows in _chunks(probabilities):
            evidence = np.log(np.maximum(rows, LEAST_PROBABILITY)) - self._log_prior
            scores = evidence @ tuple_layout().T + self._log_joint  # (n, 20480)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            parts.append(weights @ tuple_layout() / weights.sum(1, keepdims=True))
        return np.concatenate(parts) if parts else np.empty((0, tuple_layout().shape[1]))

    def grades(self, marginals: NDArray[np.floating], *, min_support: float = MIN_SUPPORT) -> NDArray[np.int64]:
        """(N, 7) reported grades: the tuple with the largest product of smoothed marginals that breaks no hard rule.

        A tuple with KL ≥ 2 and six OARSI zeros is reported only where `zero_support` is above `min_support`.

        Args:
            marginals: (N, 29) from `marginals`.
            min_support: minus infinity reports such tuples like all others.
        """
        allowed, layout, without_sign = _allowed_tuples()
        unsupported = zero_support(marginals) <= min_support
        best = []
        for start, rows in enumerate(_chunks(smooth_ordinal(marginals, self.ordinal_smoothing))):
            scores = np.log(np.maximum(rows, LEAST_PROBABILITY)) @ layout.T
            scores[np.ix_(unsupported[start * CHUNK : (start + 1) * CHUNK], without_sign)] = -np.inf
            best.append(scores.argmax(1))
        return allowed[np.concatenate(best)] if best else np.empty((0, len(TARGETS)), dtype=np.int64)

    def independent_grades(self, marginals: NDArray[np.floating]) -> NDArray[np.int64]:
        """(N, 7) grades with the largest smoothed marginal, each chosen without regard to the other grades.

        Args:
            marginals: (N, 29) from `marginals`.
        """
        smoothed = smooth_ordinal(marginals, self.ordinal_smoothing)
        return np.stack([smoothed[:, target.one_hot].argmax(1) for target in TARGETS], axis=1)


def zero_support(marginals: NDArray[np.floating]) -> Array:
    """(N,) lower bound of the probability that KL is 2 or more and all six OARSI grades are 0; may be negative.

    Args:
        marginals: (N, 29) seven distributions.

    Example:
        >>> zero_support(np.array([[0, 0, 1, 0, 0] + [0.95, 0.05, 0, 0] * 6])).round(3).tolist()
        [0.7]
    """
    shares = np.asarray(marginals, dtype=np.float64)
    zero = np.stack([shares[:, target.one_hot][:, 0] for target in TARGETS[1:]], axis=1)
    return np.asarray(1 - shares[:, TARGETS[0].one_hot][:, :2].sum(1) - (1 - zero).sum(1))


def smooth_ordinal(probabilities: NDArray[np.floating], ordinal_smoothing: float) -> Array:
    """(N, 29) distributions smoothed along their scale: Σ_j P(j)·c^((k−j)²). They do not sum to 1.

    An entry is the expected score of predicting that grade, if a prediction d grades off scores c^(d²).

    Args:
        probabilities: (N, 29).
        ordinal_smoothing: c, 0 … 1.

    Example:
        >>> smooth_ordinal(np.array([[0.4, 0.2, 0.4, 0, 0] + [0.25] * 24]), 0.4)[0, :3].round(3).tolist()
        [0.49, 0.52, 0.49]
    """
    smoothed = np.array(probabilities, dtype=np.float64)
    for target in TARGETS:
        scale = np.arange(target.classes)
        kernel = np.float64(ordinal_smoothing) ** np.square(scale[:, None] - scale)
        smoothed[:, target.one_hot] = smoothed[:, target.one_hot] @ kernel
    return smoothed


def rake_to_labels(table: Array, targets: NDArray[np.floating]) -> Array:
    """The joint table closest to `table` whose marginals are those of the labels.

    Half a count is added to each grade. Grades without any label keep their distribution given the others.

    Args:
        table: (5, 4, 4, 4, 4, 4, 4) joint distribution.
        targets: (M, 29) label distributions, NaN where missing.
    """
    marginal_of_axis = {}
    for axis, target in enumerate(TARGETS):
        labels = targets[:, target.one_hot]
        labels = labels[np.isfinite(labels).all(1)]
        if len(labels):
            counts = labels.sum(0, dtype=np.float64) + 0.5
            marginal_of_axis[axis] = counts / counts.sum()
    return raked_table(table, marginal_of_axis)


def prior_vector(table: Array) -> Array:
    """(29,) the seven marginals of a joint table, concatenated."""
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


@cache
def _allowed_tuples() -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """The M tuples that break no hard rule: (M, 7), one-hot (M, 29), and which have KL ≥ 2 beside six zeros, (M,)."""
    allowed = tuples()[keeps_hard_rules()]
    without_sign = (allowed[:, 0] >= 2) & (allowed[:, 1:] == 0).all(1)
    return allowed, tuple_layout()[keeps_hard_rules()], without_sign
