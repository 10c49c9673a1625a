import numpy as np

from kneegrade.uncertainty import em_prevalences, label_shift_weights

STUDY, SITE = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])


def knees(prevalences, number, seed):
    """Exact posteriors of Gaussian measurements under the study's prevalences, and the true classes."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(3, number, p=prevalences)
    seen = truth + generator.normal(0, 0.6, number)
    likelihood = np.exp(-0.5 * np.square((seen[:, None] - np.arange(3)) / 0.6)) * STUDY
    return likelihood / likelihood.sum(1, keepdims=True), truth


def test_em_finds_the_prevalences_of_the_site():
    posterior, _ = knees(SITE, 4000, 0)
    np.testing.assert_allclose(em_prevalences(posterior, STUDY), SITE, atol=0.04)


def test_em_keeps_the_prevalences_of_the_study():
    posterior, _ = knees(STUDY, 4000, 1)
    np.testing.assert_allclose(em_prevalences(posterior, STUDY), STUDY, atol=0.04)


def test_the_correction_improves_the_likelihood_under_a_shift_of_prevalences():
    posterior, truth = knees(SITE, 1000, 2)
    corrected = posterior * em_prevalences(posterior, STUDY) / STUDY
    corrected /= corrected.sum(1, keepdims=True)
    own = np.arange(1000), truth
    assert np.log(corrected[own]).mean() > np.log(posterior[own]).mean() + 0.05


def test_weighted_knees_of_the_study_are_distributed_like_those_of_the_site():
    posterior, _ = knees(STUDY, 20_000, 3)
    at_site, _ = knees(SITE, 20_000, 4)
    weights = label_shift_weights(posterior, STUDY, SITE)
    np.testing.assert_allclose(weights @ posterior / weights.sum(), at_site.mean(0), atol=0.02)
    assert np.abs(posterior.mean(0) - at_site.mean(0)).max() > 0.1  # without weights they are not
