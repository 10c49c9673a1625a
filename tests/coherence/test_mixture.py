import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from kneegrade.coherence import (
    GradeMixture,
    concatenate_probabilities,
    fit_mixture,
    incoherence_loss,
    one_hot,
    tuple_counts,
)
from kneegrade.schema import CLASSES, ONE_HOT_LENGTH, TARGETS, grade_tuple_counts


@pytest.fixture(scope="module")
def mixture() -> GradeMixture:
    return fit_mixture(grade_tuple_counts())


def random_mixture(generator, components=4):
    alpha = generator.dirichlet(np.ones(components))
    mean = generator.normal(size=(components, ONE_HOT_LENGTH))
    root = generator.normal(size=(components, ONE_HOT_LENGTH, ONE_HOT_LENGTH)) / 5
    covariance = root @ root.transpose(0, 2, 1) + 0.05 * np.eye(ONE_HOT_LENGTH)
    return alpha, mean, covariance


def test_log_probability_against_scipy():
    generator = np.random.default_rng(0)
    alpha, mean, covariance = random_mixture(generator)
    points = generator.random((20, ONE_HOT_LENGTH))
    parts = [multivariate_normal(m, c).logpdf(points) for m, c in zip(mean, covariance, strict=True)]
    expected = logsumexp(np.stack(parts, 1) + np.log(alpha), axis=1)
    ours = GradeMixture.from_moments(alpha, mean, covariance, floor=1e-6)
    np.testing.assert_allclose(ours.log_probability(torch.from_numpy(points)).numpy(), expected, rtol=2e-4)


def test_the_floor_raises_only_small_eigenvalues():
    covariance = np.diag(np.r_[1e-9, np.ones(ONE_HOT_LENGTH - 1)])[None]
    floored = GradeMixture.from_moments(np.ones(1), np.zeros((1, ONE_HOT_LENGTH)), covariance, floor=0.04)
    assert floored.log_determinant.item() == pytest.approx(math.log(0.04))


def test_gradient_against_finite_differences_in_float64():
    generator = np.random.default_rng(1)
    mixture = GradeMixture.from_moments(*random_mixture(generator), floor=1e-6).double()
    point = torch.from_numpy(generator.random((2, ONE_HOT_LENGTH))).requires_grad_(True)
    assert torch.autograd.gradcheck(mixture.log_probability, (point,), eps=1e-6, atol=1e-5)


def test_observed_grades_have_a_higher_density_than_shuffled_and_uniform_ones(mixture):
    counts = grade_tuple_counts()
    rows = np.repeat(np.array(list(counts)), list(counts.values()), axis=0)
    generator = np.random.default_rng(0)
    shuffled = np.stack([generator.permutation(rows[:, i]) for i in range(7)], axis=1)

    def mean_g(vectors):
        return mixture.log_probability(torch.from_numpy(vectors)).mean().item()

    observed, shuffled_g = mean_g(one_hot(rows)), mean_g(one_hot(shuffled))
    uniform = mean_g(np.concatenate([np.full((1, k), 1 / k) for k in CLASSES], axis=1))
    assert observed > shuffled_g + 5
    assert observed > uniform + 5


def test_one_hot_layout():
    row = one_hot(np.array([[4, 0, 1, 2, 3, 0, 1]]))[0]
    assert np.flatnonzero(row).tolist() == [4, 5, 10, 15, 20, 21, 26]


def test_probabilities_are_concatenated_in_the_order_of_the_schema():
    logits = {t.name: torch.full((2, t.classes), float(i)) for i, t in enumerate(TARGETS)}
    vector = concatenate_probabilities(dict(reversed(logits.items())))
    torch.testing.assert_close(vector[0], torch.tensor([1 / k for k in CLASSES for _ in range(k)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.25, 0.5, 1.5])
@pytest.mark.parametrize("g", [-1e5, -300.0, -30.0, -1e-3, 0.0, 7.0, 100.0])
def test_incoherence_loss_against_mpmath(g, tau, dtype):
    """Value and gradient of Eq. 4 against arithmetic with 60 digits."""
    with mpmath.workdps(60):
        x = -mpmath.mpf(tau) * mpmath.mpf(g)
        expected = float(mpmath.log1p(mpmath.exp(x)) / tau)
        slope = float(-1 / (1 + mpmath.exp(-x)))
    value = torch.tensor([g], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = incoherence_loss(value, tau)
    loss.backward()
    rel = 1e-5 if dtype == torch.float32 else 1e-9
    assert loss.item() == pytest.approx(expected, rel=rel, abs=1e-12)
    assert value.grad.item() == pytest.approx(slope, rel=rel, abs=1e-12)


def test_only_knees_with_all_seven_grades_are_counted():
    targets = one_hot(np.array([[1, 0, 1, 0, 0, 0, 0]] * 3 + [[4, 0, 3, 1, 2, 3, 0]])).astype(np.float32)
    targets[2, 5:9] = np.nan
    assert tuple_counts(targets) == {(1, 0, 1, 0, 0, 0, 0): 2, (4, 0, 3, 1, 2, 3, 0): 1}


def test_em_finds_planted_clusters():
    planted = {(0, 0, 0, 0, 0, 0, 0): 300, (4, 0, 3, 2, 2, 2, 2): 100}
    found = fit_mixture(planted, components=2, sigma=0.1)
    order = torch.argsort(found.log_alpha, descending=True)
    assert found.log_alpha.exp()[order].tolist() == pytest.approx([0.75, 0.25], abs=1e-3)
    expected = torch.from_numpy(one_hot(np.array(list(planted)))).float()
    torch.testing.assert_close(found.mean[order], expected, atol=0.05, rtol=0)


def test_mixture_stays_in_float32_under_autocast(mixture):
    vector = torch.rand(2, ONE_HOT_LENGTH)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mixture.log_probability(vector)
    torch.testing.assert_close(inside, mixture.log_probability(vector), rtol=0, atol=0)
