import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from kneegrade.coherence import one_hot, smoothed_table
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS, grade_tuple_counts
from kneegrade.uncertainty import Calibration, CoherentDecoder, calibration, fit_calibration, negative_log_likelihood
from kneegrade.uncertainty.calibration import (
    decoded_marginals,
    expected_agreement,
    fit_calibration_through_decoder,
)


def drawn(number=6000, seed=0):
    """True logits, logits that are sharpened by a factor of 3 and shifted by a bias per class, and drawn labels."""
    generator = np.random.default_rng(seed)
    true = {t.name: torch.from_numpy(generator.normal(size=(number, t.classes))).float() for t in TARGETS}
    rows = np.stack(
        [[generator.choice(t.classes, p=p) for p in true[t.name].double().softmax(1).numpy()] for t in TARGETS], axis=1
    )
    distorted = {t.name: 3 * (true[t.name] - 0.5 * torch.arange(t.classes)) for t in TARGETS}
    return true, distorted, torch.from_numpy(one_hot(rows)).float()


def test_a_new_calibration_changes_nothing():
    _, distorted, _ = drawn(10)
    for name, logits in Calibration()(distorted).items():
        torch.testing.assert_close(logits, distorted[name])


def test_known_temperature_and_bias_are_recovered():
    true, distorted, targets = drawn()
    fitted = fit_calibration(distorted, targets)
    for name, log_temperature in fitted.log_temperature.items():
        assert abs(log_temperature.exp().item() - 3) < 0.3, name
    after = negative_log_likelihood(fitted(distorted), targets)
    assert after < negative_log_likelihood(distorted, targets) - 0.5
    assert after < negative_log_likelihood(true, targets) + 0.02


def test_missing_grades_are_ignored_and_keep_the_plain_softmax():
    _, distorted, targets = drawn(300)
    targets[:, TARGETS[3].one_hot] = torch.nan
    fitted = fit_calibration(distorted, targets)
    assert fitted.log_temperature[TARGETS[3].name].item() == 0.0
    assert targets.shape[1] == ONE_HOT_LENGTH


@pytest.fixture(scope="module")
def knees():
    """Noisy, overconfident logits and one-hot labels of 120 knees drawn from the joint table."""
    rng, counts = np.random.default_rng(0), grade_tuple_counts()
    share = np.array(list(counts.values()))
    tuples = np.array(list(counts))[rng.choice(len(counts), 120, p=share / share.sum())]
    targets = np.concatenate([np.eye(t.classes)[tuples[:, i]] for i, t in enumerate(TARGETS)], axis=1)
    noisy = targets * 3 + rng.normal(0, 2, targets.shape)
    logits = {t.name: torch.from_numpy(noisy[:, t.one_hot]).float() for t in TARGETS}
    return logits, targets.astype(np.float32)


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


def log_evidence(seed, number, dtype):
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (number, 29))).to(dtype)
    return torch.cat([scores[:, t.one_hot].log_softmax(1) for t in TARGETS], 1).requires_grad_(True)


def test_decoded_marginals_are_those_of_the_decoder_and_differentiable(table):
    evidence = log_evidence(1, 9, torch.float64)
    joint = torch.from_numpy(table**0.7)
    marginals = decoded_marginals(evidence, joint)
    expected = CoherentDecoder(table, 0.0, 0.7).marginals(evidence.detach().exp().numpy())
    np.testing.assert_allclose(marginals.detach(), expected, atol=1e-9)
    assert torch.autograd.gradcheck(lambda e: decoded_marginals(e, joint), (log_evidence(2, 2, torch.float64),))


def test_float32_is_precise_enough_for_evidence_against_every_tuple(table):
    evidence = log_evidence(3, 4, torch.float32).detach()
    evidence[:, ::3] = np.log(1e-12)
    joint = torch.from_numpy(table).float()
    marginals = decoded_marginals(evidence.requires_grad_(True), joint).detach().numpy()
    expected = CoherentDecoder(table, 0.0, 1.0).marginals(evidence.detach().double().exp().numpy())
    np.testing.assert_allclose(marginals, expected, atol=1e-4)


def test_calibration_through_the_decoder_improves_the_likelihood_and_converges(knees, table, monkeypatch):
    logits, targets = knees
    decoder = CoherentDecoder(table, 0.0, 0.7)
    start = fit_calibration(logits, torch.from_numpy(targets))
    before = decoded_loss(decoder, start, logits, targets)
    fitted, loss = fit_calibration_through_decoder(logits, targets, decoder, start)
    assert loss == pytest.approx(decoded_loss(decoder, fitted, logits, targets), abs=1e-3)
    assert loss < before - 0.01
    monkeypatch.setattr(calibration, "ITERATIONS", 200)
    assert fit_calibration_through_decoder(logits, targets, decoder, start)[1] > loss - 2e-3


def decoded_loss(decoder, fitted, logits, targets):
    with torch.no_grad():
        shares = torch.cat([fitted(logits)[t.name].softmax(1) for t in TARGETS], 1).double().numpy()
    log_marginals = np.log(decoder.marginals(shares).clip(1e-12))
    return float(-(targets * log_marginals).sum(1).mean())


def test_expected_agreement_is_the_mean_agreement_with_drawn_readings():
    rng = np.random.default_rng(0)
    probabilities = np.concatenate([rng.dirichlet(np.ones(t.classes), 500) for t in TARGETS], 1)
    grades = np.stack([probabilities[:, t.one_hot].argmax(1) for t in TARGETS], 1)
    found, kl = [], TARGETS[0]
    for _ in range(200):
        read = (probabilities[:, kl.one_hot].cumsum(1) < rng.random((500, 1))).sum(1)
        kappa = cohen_kappa_score(read, grades[:, 0], weights="quadratic", labels=range(kl.classes))
        found.append((read == grades[:, 0]).mean() + kappa)
    assert expected_agreement(grades, probabilities, {"kl"}) == pytest.approx(np.mean(found), abs=0.01)
    both = expected_agreement(grades, probabilities, {"kl", "jsn_medial", "jsn_lateral"})
    parts = [expected_agreement(grades, probabilities, {name}) for name in ("kl", "jsn_medial", "jsn_lateral")]
    assert both == pytest.approx((parts[0] + (parts[1] + parts[2]) / 2) / 2)
