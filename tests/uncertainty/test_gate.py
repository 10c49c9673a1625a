from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kneegrade.uncertainty import Gate, Signs, fit_gate, joined, load_gate
from kneegrade.uncertainty.gate import GREYS, IMPLANT, knee_features, photometry, scores
from kneegrade.weights import load_weights, save_weights

FEATURES = 12


def drawn(seed, number, shift=0.0, metal=0.0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, FEATURES)) @ np.linspace(0.5, 2, FEATURES * FEATURES).reshape(FEATURES, -1)
    features[:, 0] += 40 * metal
    return Signs(features + shift, rng.beta(2, 20, number), rng.normal(0.5, 0.03, (number, GREYS)))


@pytest.fixture(scope="module")
def gate():
    return fit_gate(drawn(0, 800), drawn(1, 600), drawn(2, 300), drawn(3, 300, metal=1), refuse=0.01)


def test_about_as_many_sound_knees_are_refused_as_asked(gate):
    said = gate(drawn(4, 4000))
    assert np.mean([q.reason is not None for q in said]) < 0.02
    low = np.mean([q.score < 0.05 for q in said])
    assert 0.02 < low < 0.08  # a share s scores s or less


def test_strange_knees_are_refused_for_what_is_strange(gate):
    sound = drawn(5, 20)
    for name, strange in (
        ("unlike_training", Signs(sound.features + np.linspace(-60, 60, FEATURES), sound.doubt, sound.greys)),
        ("unsure_landmarks", Signs(sound.features, np.full(20, 0.9), sound.greys)),
        ("unusual_exposure", Signs(sound.features, sound.doubt, sound.greys + 1.0)),
    ):
        reasons = [q.reason.code for q in gate(strange) if q.reason is not None and q.reason != IMPLANT]
        assert reasons, name
        assert set(reasons) == {name}


def test_metal_is_seen_and_told_first(gate):
    with_metal, without = gate.metal(drawn(6, 500, metal=1)), gate.metal(drawn(7, 500))
    assert np.mean(with_metal > float(gate.implant_limit)) > 0.9
    assert np.mean(without > float(gate.implant_limit)) < 0.02
    sure = with_metal > float(gate.implant_limit)
    assert [q.reason for q in gate(drawn(6, 500, metal=1).part(sure))] == [IMPLANT] * int(sure.sum())


def test_whitening_makes_the_distance_blind_to_scale():
    """Features in other units give the same strangeness, up to the shrinkage of a well-sampled covariance."""
    factor = np.geomspace(0.01, 100, FEATURES)
    sound = [drawn(seed, 3000) for seed in range(4)]
    scaled = [Signs(s.features * factor, s.doubt, s.greys) for s in sound]
    first, second = fit_gate(*sound), fit_gate(*scaled)
    np.testing.assert_allclose(second.strangeness(scaled[0]), first.strangeness(sound[0]), rtol=1e-3)


def test_scores_are_thrice_the_least_rarity():
    np.testing.assert_allclose(scores(np.array([[0.5, 0.2, 0.9], [0.01, 1, 1]])), [0.6, 0.03])


def test_hidden_landmarks_count_for_nothing():
    rng = torch.Generator().manual_seed(0)
    pooled, visible = torch.rand(3, 75, 8, generator=rng), torch.rand(3, 74, generator=rng) < 0.7
    first = knee_features(pooled, visible)
    pooled[:, :74][~visible] = 99.0
    np.testing.assert_array_equal(knee_features(pooled, visible), first)
    assert first.shape == (3, 24)
    seen = pooled[0, :74][visible[0]]
    np.testing.assert_allclose(first[0, :8], seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first[0, 8:16], seen.std(0, correction=0), rtol=1e-4)


def test_photometry_reads_the_film_alone():
    roi = np.zeros((64, 64), np.float32)
    inside = np.zeros((64, 64), bool)
    inside[:, :32] = True
    roi[:, :32] = np.linspace(0.2, 0.6, 32)
    mean, spread, clipped, _, *deciles, step, _ = photometry(roi, inside)
    assert (mean, clipped) == (pytest.approx(0.4), 0.0)
    np.testing.assert_allclose(deciles, 0.2 + 0.4 * np.linspace(0.1, 0.9, 9), atol=0.02)
    assert step == pytest.approx(0.4 / 31, rel=1e-4)  # the film's end is no edge
    assert spread == pytest.approx(np.linspace(0.2, 0.6, 32).std(), rel=1e-5)


def test_a_gate_survives_a_file_and_weights_without_one_have_none(gate, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {f"gate.{k}": v for k, v in gate.state_dict().items()}, {"name": "w", "kind": "grader"})
    read = load_gate(load_weights(path, "grader"))
    knees = joined([drawn(8, 50), drawn(9, 50, metal=1)])
    assert read(knees) == gate(knees)
    assert load_gate(SimpleNamespace(part=lambda name: {})) is None
    assert isinstance(read, Gate)
