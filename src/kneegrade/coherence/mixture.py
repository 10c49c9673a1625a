"""The Gaussian mixture over the one-hot grades: fitting, log-probability and incoherence loss (paper, section 2.2)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.schema import ONE_HOT_LENGTH, TARGETS, Tuple7


class GradeMixture(nn.Module):
    """Frozen mixture of full-covariance Gaussians over the 29-vector of grade probabilities.

    Holds log α (K,), μ (K, 29), log |Σ| (K,) and, per component, a whitening matrix W (K, 29, 29) with W Wᵀ = Σ⁻¹ from
    the eigenvectors of Σ, as float32 buffers. The floor on the eigenvalues is applied when it is made.
    """

    log_alpha: Tensor
    mean: Tensor
    whitener: Tensor
    log_determinant: Tensor

    def __init__(self, components: int = 10) -> None:
        super().__init__()
        self.register_buffer("log_alpha", torch.zeros(components))
        self.register_buffer("mean", torch.zeros(components, ONE_HOT_LENGTH))
        self.register_buffer("whitener", torch.zeros(components, ONE_HOT_LENGTH, ONE_HOT_LENGTH))
        self.register_buffer("log_determinant", torch.zeros(components))

    @classmethod
    def from_moments(
        cls, alpha: NDArray[Any], mean: NDArray[Any], covariance: NDArray[Any], floor: float
    ) -> "GradeMixture":
        """A mixture from weights (K,), means (K, 29) and covariances (K, 29, 29), eigenvalues raised to `floor`."""
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, floor)
        mixture = cls(len(alpha))
        mixture.log_alpha.copy_(torch.from_numpy(np.log(alpha)))
        mixture.mean.copy_(torch.from_numpy(mean))
        mixture.whitener.copy_(torch.from_numpy(vectors / np.sqrt(values)[:, None, :]))
        mixture.log_determinant.copy_(torch.from_numpy(np.log(values).sum(1)))
        return mixture

    def log_probability(self, probabilities: Tensor) -> Tensor:
        r"""g(P) = log Σ_i α_i N(P; μ_i, Σ_i) (Eq. 3), in the buffers' type (float32), under autocast too.

        Args:
            probabilities: (B, 29), the seven softmax outputs in the order of the schema.

        Returns:
            (B,) natural logarithms; a density, so they may be positive.
        """
        with torch.autocast(probabilities.device.type, enabled=False):
            offset = probabilities.to(self.mean.dtype).unsqueeze(1) - self.mean  # (B, K, 29)
            white = torch.einsum("bkd,kde->bke", offset, self.whitener)
            exponent = -0.5 * (white.square().sum(-1) + self.log_determinant + ONE_HOT_LENGTH * math.log(2 * math.pi))
            return torch.logsumexp(self.log_alpha + exponent, dim=1)


def fit_mixture(
    counts: Mapping[Tuple7, int], *, components: int = 10, sigma: float = 0.2, seed: int = 0, floor: float | None = None
) -> GradeMixture:
    """The paper's mixture: EM on one-hot grades with added N(0, σ²) noise.

    Args:
        counts: how often each seven-tuple of grades occurs in the labelled set.
        components: K.
        sigma: standard deviation of the noise.
        seed: of the noise and of EM's start.
        floor: least eigenvalue of each covariance; the paper gives none, σ² is the natural one and the default.
    """
    from sklearn.mixture import GaussianMixture

    generator = np.random.default_rng(seed)
    rows = np.repeat(np.array(list(counts)), list(counts.values()), axis=0)
    noisy = one_hot(rows) + generator.normal(0.0, sigma, (len(rows), ONE_HOT_LENGTH))
    em = GaussianMixture(components, covariance_type="full", random_state=seed, reg_covar=1e-6, max_iter=300).fit(noisy)
    return GradeMixture.from_moments(em.weights_, em.means_, em.covariances_, sigma**2 if floor is None else floor)


def tuple_counts(targets: NDArray[np.floating[Any]]) -> dict[Tuple7, int]:
    """How often each seven-tuple occurs among the knees of (N, 29) distributions that have all seven grades.

    A soft label counts as its likeliest grade.
    """
    grades = most_probable_grades(targets)
    tuples, numbers = np.unique(grades[(grades >= 0).all(axis=1)], axis=0, return_counts=True)
    return {tuple(row): number for row, number in zip(tuples.tolist(), numbers.tolist(), strict=True)}


def one_hot(grades: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """(N, 7) grades → (N, 29) one-hot rows, in the order of the schema."""
    return np.concatenate([np.eye(t.classes)[grades[:, i]] for i, t in enumerate(TARGETS)], axis=1)


def most_probable_grades(targets: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """(N, 29) distributions → (N, 7) likeliest grades, -1 where a distribution is NaN: what `one_hot` turns round."""
    parts = [targets[:, t.one_hot] for t in TARGETS]
    grades = [np.where(np.isnan(part).any(1), -1, np.nan_to_num(part).argmax(1)) for part in parts]
    return np.stack(grades, axis=1).astype(np.int64)


def concatenate_probabilities(logits: Mapping[str, Tensor]) -> Tensor:
    """Grade name → (B, classes) logits to the (B, 29) vector P of softmax outputs."""
    return torch.cat([torch.softmax(logits[t.name].float(), dim=1) for t in TARGETS], dim=1)


def incoherence_loss(log_probability: Tensor, tau: float = 0.5) -> Tensor:
    r"""L_gmm = (1/τ)·log(1 + exp(−τ g)) (Eq. 4) per knee; the softplus form neither overflows nor underflows.

    Args:
        log_probability: (B,) g(P).
        tau: temperature τ; the paper's default is 0.5.
    """
    return functional.softplus(-tau * log_probability) / tau
