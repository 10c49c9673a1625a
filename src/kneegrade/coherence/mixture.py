"""Gaussian mixture over the one-hot grades: fit, log-density (Eq. 3) and incoherence loss (Eq. 4; paper, section 2.2).

B is the batch size, K the number of components and D = 29 the length of the concatenated grade probabilities.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.quiet_imports import import_joblib_quietly
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS, GradeTuple

EM_COVARIANCE_REGULARIZATION = 1e-6
EM_MAX_ITERATIONS = 300


def one_hot(grades: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the one-hot rows (N, 29) of grades (N, 7), in the order of the schema."""
    return np.concatenate([np.eye(t.classes)[grades[:, i]] for i, t in enumerate(TARGETS)], axis=1)


def most_probable_grades(targets: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the most probable grades (N, 7) of distributions (N, 29), -1 for NaN; the inverse of `one_hot`."""
    grades = np.stack([targets[:, t.one_hot].argmax(1) for t in TARGETS], axis=1)
    if np.isnan(targets).any():
        missing = np.stack([np.isnan(targets[:, t.one_hot]).any(1) for t in TARGETS], axis=1)
        grades[missing] = -1
    return grades.astype(np.int64)


def tuple_counts(targets: NDArray[np.floating[Any]]) -> dict[GradeTuple, int]:
    """Return how often each combination of grades occurs among the knees for which all seven grades are known.

    Args:
        targets: (N, 29) distributions, NaN for an unknown grade. A soft label counts as its most probable grade.
    """
    grades = most_probable_grades(targets)
    tuples, counts = np.unique(grades[(grades >= 0).all(axis=1)], axis=0, return_counts=True)
    return {tuple(row): count for row, count in zip(tuples.tolist(), counts.tolist(), strict=True)}


def fit_mixture(
    counts: Mapping[GradeTuple, int],
    *,
    components: int = 10,
    sigma: float = 0.2,
    seed: int = 0,
    floor: float | None = None,
) -> "GradeMixture":
    """Return the mixture of the paper: EM on one-hot grades with added N(0, σ²) noise.

    Args:
        counts: how often each combination of the seven grades occurs in the labelled set.
        components: K.
        sigma: σ, standard deviation of the noise.
        seed: of the noise and of the initialisation of EM.
        floor: minimum eigenvalue of each covariance. The paper gives none; the default is σ², the variance that the
            noise adds in every direction.
    """
    import_joblib_quietly()
    from sklearn.mixture import GaussianMixture

    generator = np.random.default_rng(seed)
    rows = np.repeat(np.array(list(counts)), list(counts.values()), axis=0)
    noisy = one_hot(rows) + generator.normal(0.0, sigma, (len(rows), ONE_HOT_LENGTH))  # (N, D)
    em = GaussianMixture(
        components,
        covariance_type="full",
        random_state=seed,
        reg_covar=EM_COVARIANCE_REGULARIZATION,
        max_iter=EM_MAX_ITERATIONS,
    ).fit(noisy)
    return GradeMixture.from_moments(em.weights_, em.means_, em.covariances_, sigma**2 if floor is None else floor)


class GradeMixture(nn.Module):
    """Mixture of full-covariance Gaussians over the D = 29 grade probabilities, with fixed parameters.

    Its float32 buffers are log α (K,), μ (K, D), log |Σ| (K,) and, for each component, a whitening matrix W (K, D, D)
    with W Wᵀ = Σ⁻¹, from the eigenvectors of Σ.

    Args:
        components: K.
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
        """Return a mixture with given parameters.

        Args:
            alpha: (K,) mixture weights.
            mean: (K, D).
            covariance: (K, D, D).
            floor: minimum eigenvalue; smaller eigenvalues of the covariances are raised to it.
        """
        values, vectors = np.linalg.eigh(covariance)  # (K, D), (K, D, D)
        values = np.maximum(values, floor)
        mixture = cls(len(alpha))
        mixture.log_alpha.copy_(torch.from_numpy(np.log(alpha)))
        mixture.mean.copy_(torch.from_numpy(mean))
        mixture.whitener.copy_(torch.from_numpy(vectors / np.sqrt(values)[:, None, :]))
        mixture.log_determinant.copy_(torch.from_numpy(np.log(values).sum(1)))
        return mixture

    def log_probability(self, probabilities: Tensor) -> Tensor:
        r"""Return g(P) = log Σ_i α_i N(P; μ_i, Σ_i) (Eq. 3), in the dtype of the buffers, float32, even in autocast.

        Args:
            probabilities: P, (B, D), the seven softmax outputs in the order of the schema.

        Returns:
            (B,) natural logarithms of a density, which may be positive.
        """
        with torch.autocast(probabilities.device.type, enabled=False):
            offset = probabilities.to(self.mean.dtype).unsqueeze(1) - self.mean  # (B, K, D)
            white = torch.einsum("bkd,kde->bke", offset, self.whitener)  # (B, K, D)
            mahalanobis = white.square().sum(-1)  # (B, K)
            log_normal = -0.5 * (mahalanobis + self.log_determinant + ONE_HOT_LENGTH * math.log(2 * math.pi))
            return torch.logsumexp(self.log_alpha + log_normal, dim=1)  # (B,)


def concatenate_probabilities(logits: Mapping[str, Tensor]) -> Tensor:
    """Return P (B, D), the softmax outputs of all grades in the order of the schema, float32.

    Args:
        logits: grade name → (B, classes).
    """
    return torch.cat([torch.softmax(logits[t.name].float(), dim=1) for t in TARGETS], dim=1)


def incoherence_loss(log_probability: Tensor, tau: float = 0.5) -> Tensor:
    r"""Return L_gmm = (1/τ)·log(1 + exp(−τ g)) (Eq. 4), (B,).

    The softplus form neither overflows nor underflows.

    Args:
        log_probability: g(P), (B,).
        tau: temperature τ; the paper's default is 0.5.
    """
    return functional.softplus(-tau * log_probability) / tau
