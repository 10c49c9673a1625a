r"""Maps from the study's scale of one grade to the scale of a site's reader, and their fit on few knees.

A map turns the study's distributions of a knee into the site's distribution Q of one grade. The families, from simple
to rich, where P is the study's distribution of that grade:

| family       | formula                                         | parameters               |
|--------------|-------------------------------------------------|--------------------------|
| identity     | Q = P                                           | none                     |
| thresholds   | logit Q(y ≥ k) = a·c(u_k), u_1 < u_2 < …        | ln a, u                  |
| multinomial  | Q ∝ exp((1 + s)·ln P + B (W x + v))             | s, W, v                  |

c(k) = logit P(y ≥ k) are the study's cumulative logits; between two integers c is interpolated linearly, beyond them it
continues linearly. `thresholds` says where on the study's scale the reader's grades begin: u_1 = 1.7 means that this
reader gives 1 or more where the study's readers give 1.7 or more. It is a proportional-odds model (McCullagh 1980); its
distributions are mixed with 2 % of the uniform one, because the study's may be overconfident on another site's films.

`multinomial` reads all seven grades, because a reader may weigh osteophytes and narrowing differently: x are the
logarithms of their distributions, centred within each grade. The columns of B are orthogonal polynomials of the grade,
and the prior of W is widest for the linear one, so that the map moves knees along the scale before it does anything
else.

All parameters are 0 for "no change", and a Gaussian prior shrinks them towards it (`Family.spread`). A richer family is
only taken if its cross-validated likelihood beats the simpler one by a standard error over people. The priors and the
2 % were chosen on simulated readers and on a part of a site that was set aside for it (`benchmarks/site_scale.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax

from kneegrade.schema import ONE_HOT_LENGTH, TARGETS, Target

Array = NDArray[np.float64]

LEAST_PROBABILITY = 1e-9
LARGEST_LOGIT = 8.0  # of a cumulative probability
LEAST_SHARE = 1e-3  # of a class, where the logarithm of a distribution is a feature
UNIFORM = 0.02  # share of the uniform distribution in the family "thresholds"
FOLDS = 5
ITERATIONS, TOLERANCE = 100, 1e-7
LIMIT = 10.0  # of a parameter, in standard deviations of the prior


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the maps of one grade read from N knees.

    Attributes:
        shares: (N, K) the study's distributions of the grade.
        features: (N, 29) logarithms of the study's distributions of all grades, centred within each grade.
    """

    shares: Array
    features: Array

    @classmethod
    def of(cls, study: NDArray[np.floating], target: Target) -> "Inputs":
        """The inputs of a grade.

        Args:
            study: (N, 29) distributions on the study's scale.
            target: the grade.
        """
        features = np.log(np.maximum(np.asarray(study, dtype=np.float64), LEAST_SHARE))
        for one in TARGETS:
            features[:, one.one_hot] -= features[:, one.one_hot].mean(1, keepdims=True)
        shares = np.maximum(np.asarray(study[:, target.one_hot], dtype=np.float64), LEAST_PROBABILITY)
        return cls(shares / shares.sum(1, keepdims=True), features)

    def part(self, rows: NDArray[np.bool_]) -> "Inputs":
        """The knees of a mask (N,)."""
        return Inputs(self.shares[rows], self.features[rows])


@dataclass(frozen=True)
class Family:
    """A family of maps of one grade.

    Attributes:
        name: in weights files and reports.
        spread: number of classes K → (parameters,) standard deviations of the prior; all means are 0, "no change".
        apply: (parameters, the study's `Inputs` of N knees) → (N, K) distributions of the site.
        slope: (parameters, inputs, (N, K) labels) → (parameters,) gradient of −Σ ln likelihood; None: no parameters.
    """

    name: str
    spread: Callable[[int], Array]
    apply: Callable[[Array, Inputs], Array]
    slope: Callable[[Array, Inputs, Array], Array] | None = None


def cumulative_logits(shares: Array) -> Array:
    """(N, K − 1) logit P(y ≥ k), k = 1 … K − 1, limited to ±8.

    Args:
        shares: (N, K) distributions.
    """
    tail = np.clip(shares[:, :0:-1].cumsum(1)[:, ::-1], LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.clip(logit(tail), -LARGEST_LOGIT, LARGEST_LOGIT))


def at_positions(cumulative: Array, positions: Array) -> tuple[Array, Array]:
    """Cumulative logits c(u) (N, U) at U positions on the scale, and their slopes dc/du (N, U).

    c is linear between integers and continues beyond them.

    Args:
        cumulative: (N, K − 1) at 1 … K − 1.
        positions: (U,).
    """
    left = np.clip(np.floor(positions).astype(np.int64) - 1, 0, cumulative.shape[1] - 2)
    slope = cumulative[:, left + 1] - cumulative[:, left]
    return cumulative[:, left] + slope * (positions - 1 - left), slope


def threshold_positions(parameters: Array) -> Array:
    """(K − 1,) where on the study's scale the reader's grades 1 … K − 1 begin.

    Args:
        parameters: (K,) of a map of the family "thresholds": ln a, u_1 − 1, ln(u_2 − u_1), …
    """
    return np.asarray(1 + parameters[1] + np.concatenate([[0.0], np.exp(parameters[2:]).cumsum()]))


def _identity(_parameters: Array, inputs: Inputs) -> Array:
    return inputs.shares


def _thresholds(parameters: Array, inputs: Inputs) -> Array:
    return _mixed(_tails(parameters, inputs)[0])


def _thresholds_slope(parameters: Array, inputs: Inputs, labels: Array) -> Array:
    tail, logits, slope = _tails(parameters, inputs)
    by_share = -(1 - UNIFORM) * labels / _mixed(tail)  # (N, K) derivative by the share before mixing
    by_logit = (by_share[:, 1:] - by_share[:, :-1]) * tail * (1 - tail)  # (N, K − 1)
    by_position = (by_logit * slope * np.exp(parameters[0])).sum(0)
    gaps = np.exp(parameters[2:]) * by_position[::-1].cumsum()[::-1][1:]  # a gap moves all later thresholds
    return np.concatenate([[(by_logit * logits).sum(), by_position.sum()], gaps])


def _tails(parameters: Array, inputs: Inputs) -> tuple[Array, Array, Array]:
    """(N, K − 1) Q(y ≥ k) before mixing, their logits, and the slopes dc/du at the reader's thresholds."""
    value, slope = at_positions(cumulative_logits(inputs.shares), threshold_positions(parameters))
    logits = np.exp(parameters[0]) * value
    return expit(logits), logits, slope


def _mixed(tail: Array) -> Array:
    """(N, K) distributions from Q(y ≥ k), mixed with the uniform one."""
    ends = np.ones((len(tail), 1))
    shares = -np.diff(np.concatenate([ends, tail, 0 * ends], axis=1), axis=1)
    return np.asarray((1 - UNIFORM) * shares + UNIFORM / shares.shape[1])


def _bias(parameters: Array, inputs: Inputs) -> Array:
    """Q ∝ P·exp(v), a change of prevalences (`kneegrade.uncertainty.label_shift`); not fitted on labels."""
    return np.asarray(softmax(np.log(inputs.shares) + parameters, axis=1))


def _multinomial(parameters: Array, inputs: Inputs) -> Array:
    base = np.log(np.maximum(inputs.shares, LEAST_SHARE))
    basis = polynomial_basis(base.shape[1])
    coefficients = parameters[1:].reshape(-1, basis.shape[1])  # the last row is v
    along = inputs.features @ coefficients[:-1] + coefficients[-1]
    return np.asarray(softmax((1 + parameters[0]) * base + along @ basis.T, axis=1))


def _multinomial_slope(parameters: Array, inputs: Inputs, labels: Array) -> Array:
    off = labels.sum(1, keepdims=True) * _multinomial(parameters, inputs) - labels
    along = off @ polynomial_basis(labels.shape[1])  # (N, K − 1)
    by_base = (off * np.log(np.maximum(inputs.shares, LEAST_SHARE))).sum()
    return np.concatenate([[by_base], (inputs.features.T @ along).reshape(-1), along.sum(0)])


@cache
def polynomial_basis(classes: int) -> Array:
    """(K, K − 1) orthonormal polynomials of the grade, from linear to degree K − 1."""
    powers = np.vander(np.arange(classes) - (classes - 1) / 2, increasing=True)
    return np.asarray(np.linalg.qr(powers)[0][:, 1:])


def _multinomial_spread(classes: int) -> Array:
    by_degree = np.array([0.2, 0.14, 0.1, 0.1])[: classes - 1]
    return np.concatenate([[0.5], np.tile(by_degree, ONE_HOT_LENGTH), np.full(classes - 1, 3.0)])


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("identity", lambda classes: np.zeros(0), _identity),
        Family("thresholds", lambda classes: np.array([0.25, 1.0] + [0.25] * (classes - 2)), _thresholds,
               _thresholds_slope),
        Family("multinomial", _multinomial_spread, _multinomial, _multinomial_slope),
        Family("bias", lambda classes: np.ones(classes), _bias),
    )
}  # fmt: skip
CANDIDATES = ("identity", "thresholds", "multinomial")  # from simple to rich, the order in which they are tried


@dataclass(frozen=True, eq=False)
class SiteMap:
    """A map from the study's distribution of one grade to the site's.

    Attributes:
        family: name in `FAMILIES`.
        parameters: (P,) of the family, with the precision of float32, in which weights are stored.
    """

    family: str
    parameters: Array

    def __call__(self, inputs: Inputs) -> Array:
        """(N, K) distributions on the site's scale."""
        return FAMILIES[self.family].apply(self.parameters, inputs)


def fit_map(family: str, inputs: Inputs, labels: Array) -> SiteMap:
    """The map of a family with the highest posterior density.

    Args:
        family: name in `FAMILIES`.
        inputs: of M knees.
        labels: (M, K) labels of the site's reader as distributions.
    """
    chosen = FAMILIES[family]
    spread, slope = chosen.spread(labels.shape[1]), chosen.slope
    if slope is None:
        return SiteMap(family, spread)

    def loss(parameters: Array) -> tuple[float, Array]:
        fit = -(labels * np.log(chosen.apply(parameters, inputs) + LEAST_PROBABILITY)).sum()
        penalty = 0.5 * np.square(parameters / spread).sum()
        return float(fit + penalty), slope(parameters, inputs, labels) + parameters / spread**2

    limits = [(-LIMIT * each, LIMIT * each) for each in spread]  # keeps exponentials finite
    options = {"maxiter": ITERATIONS, "ftol": TOLERANCE}
    found = minimize(loss, np.zeros(len(spread)), jac=True, bounds=limits, method="L-BFGS-B", options=options)
    return SiteMap(family, np.asarray(found.x, dtype=np.float32).astype(np.float64))


@dataclass(frozen=True, eq=False)
class ChosenMap:
    """A map chosen by cross-validation over people.

    Attributes:
        map: fitted on all knees.
        out_of_fold: (M, K) distributions of each knee by a map of the same family, fitted without that person.
        loss: family → mean negative log-likelihood of the labels, cross-validated.
    """

    map: SiteMap
    out_of_fold: Array
    loss: Mapping[str, float]


def choose_map(inputs: Inputs, labels: Array, person: NDArray[np.int64], seed: int = 0) -> ChosenMap:
    """The simplest map that no richer family beats by more than a standard error over people.

    Args:
        inputs: of M knees.
        labels: (M, K) labels of the site's reader as distributions.
        person: (M,) number of the person of each knee; all knees of a person are in one fold.
        seed: of the folds.
    """
    fold = _folds(person, seed)
    predicted = {name: _cross_fitted(name, inputs, labels, fold) for name in CANDIDATES}
    losses = {name: -(labels * np.log(q + LEAST_PROBABILITY)).sum(1) for name, q in predicted.items()}
    best = "identity"
    for name in CANDIDATES:
        gain = np.bincount(person, losses[best] - losses[name])[np.bincount(person) > 0]
        if gain.sum() > np.sqrt(len(gain) * gain.var(ddof=1)):  # of the sum over people
            best = name
    return ChosenMap(
        fit_map(best, inputs, labels), predicted[best], {name: float(loss.mean()) for name, loss in losses.items()}
    )


def _folds(person: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """(M,) fold 0 … 4 of each knee."""
    people, index = np.unique(person, return_inverse=True)
    return np.asarray((np.random.default_rng(seed).permutation(len(people)) % FOLDS)[index])


def _cross_fitted(family: str, inputs: Inputs, labels: Array, fold: NDArray[np.int64]) -> Array:
    predicted = np.empty_like(labels)
    for number in np.unique(fold):
        test = fold == number
        predicted[test] = fit_map(family, inputs.part(~test), labels[~test])(inputs.part(test))
    return predicted
