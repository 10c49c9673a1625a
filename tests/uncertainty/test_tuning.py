import numpy as np
import pytest
import torch

from kneegrade.coherence import smoothed_table
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.uncertainty import CoherentDecoder, fit_calibration
from kneegrade.uncertainty import calibration as tuning
from kneegrade.uncertainty.calibration import decoded_marginals, fit_calibration_through_decoder


@pytest.fixture(scope="module")
def knees():
    """120 knees drawn from the joint table, and logits that saw them dimly and are too sure of it."""
    rng, counts = np.random.default_rng(0), grade_tuple_counts()
    share = np.array(list(counts.values()))
    tuples = np.array(list(counts))[rng.choice(len(counts), 120, p=share / share.sum())]
    targets = np.concatenate([np.eye(t.classes)[tuples[:, i]] for i, t in enumerate(TARGETS)], axis=1)
    seen = targets * 3 + rng.normal(0, 2, targets.shape)
    logits = {t.name: torch.from_numpy(seen[:, t.one_hot]).float() for t in TARGETS}
    return logits, targets.astype(np.float32)


@pytest.fixture(scope="module")
def table():
    return smoothed_table(grade_tuple_counts())


def evidence(seed, number, dtype):
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (number, 29))).to(dtype)
    return torch.cat([scores[:, t.one_hot].log_softmax(1) for t in TARGETS], 1).requires_grad_(True)


def test_marginals_are_those_of_the_decoder_and_differentiable(table):
    given = evidence(1, 9, torch.float64)
    joint = torch.from_numpy(table**0.7)
    said = decoded_marginals(given, joint)
    expected = CoherentDecoder(table, 0.0, 0.7).marginals(given.detach().exp().numpy())
    np.testing.assert_allclose(said.detach(), expected, atol=1e-9)
    assert torch.autograd.gradcheck(lambda e: decoded_marginals(e, joint), (evidence(2, 2, torch.float64),))


def test_float32_survives_evidence_against_every_tuple(table):
    given = evidence(3, 4, torch.float32).detach()
    given[:, ::3] = np.log(1e-12)
    joint = torch.from_numpy(table).float()
    said = decoded_marginals(given.requires_grad_(True), joint).detach().numpy()
    expected = CoherentDecoder(table, 0.0, 1.0).marginals(given.detach().double().exp().numpy())
    np.testing.assert_allclose(said, expected, atol=1e-4)


def test_calibration_through_the_decoder_makes_labels_likelier_and_has_converged(knees, table, monkeypatch):
    logits, targets = knees
    decoder = CoherentDecoder(table, 0.0, 0.7)
    start = fit_calibration(logits, torch.from_numpy(targets))
    before = calibration_loss(decoder, start, logits, targets)
    fitted, loss = fit_calibration_through_decoder(logits, targets, decoder, start)
    assert loss == pytest.approx(calibration_loss(decoder, fitted, logits, targets), abs=1e-3)
    assert loss < before - 0.01
    monkeypatch.setattr(tuning, "ITERATIONS", 200)
    assert fit_calibration_through_decoder(logits, targets, decoder, start)[1] > loss - 2e-3


def calibration_loss(decoder, calibration, logits, targets):
    with torch.no_grad():
        shares = torch.cat([calibration(logits)[t.name].softmax(1) for t in TARGETS], 1).double().numpy()
    said = np.log(decoder.marginals(shares).clip(1e-12))
    return float(-(targets * said).sum(1).mean())
