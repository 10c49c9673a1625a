from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kneegrade.uncertainty import (
    ImplantNetwork,
    OODFeatures,
    QualityControl,
    Split,
    fit_quality_control,
    joined,
    load_quality_control,
)
from kneegrade.uncertainty.quality_control import GREYS, IMPLANT, knee_features, photometry, scores
from kneegrade.weights import load_weights, save_weights

FEATURES = 12
PHANTOM = 100.0  # how far phantoms' features are from those of real knees


def drawn(seed, number, shift=0.0, bar=False):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, FEATURES)) @ np.linspace(0.5, 2, FEATURES * FEATURES).reshape(FEATURES, -1)
    pictures = rng.integers(90, 140, (number, 144, 144), dtype=np.uint8)
    if bar:
        for picture, (x, y) in zip(pictures, rng.integers(20, 100, (number, 2)), strict=True):
            picture[y : y + 25, x : x + 5] = 255
    return OODFeatures(features + shift, rng.beta(2, 20, number), rng.normal(0.5, 0.03, (number, GREYS)), pictures)


class Bright(ImplantNetwork):
    """Takes white spots for metal; what the gate does with a network's answer is tested here, not the network."""

    def forward(self, pictures):
        return 20 * (pictures.amax((1, 2, 3)) - 0.8)


def fitted(real, others, plain, plain_others):
    return fit_quality_control(Split(real, others), Split(plain, plain_others), Bright(), refuse=0.01)


@pytest.fixture(scope="module")
def gate():
    return fitted(drawn(0, 800), drawn(1, 600), drawn(2, 300, PHANTOM), drawn(3, 100, PHANTOM))


def test_about_as_many_sound_knees_are_refused_as_asked(gate):
    said = gate(drawn(4, 4000))
    assert np.mean([q.reason is not None for q in said]) < 0.02
    low = np.mean([q.score < 0.05 for q in said])
    assert 0.02 < low < 0.08  # a share s scores s or less


def test_strange_knees_are_refused_for_what_is_strange(gate):
    sound = drawn(5, 20)
    for name, strange in (
        ("unlike_training", replace(sound, features=sound.features + np.linspace(-60, 60, FEATURES))),
        ("unsure_landmarks", replace(sound, doubt=np.full(20, 0.9))),
        ("unusual_exposure", replace(sound, greys=sound.greys + 1.0)),
    ):
        reasons = [q.reason.code for q in gate(strange) if q.reason is not None and q.reason != IMPLANT]
        assert reasons, name
        assert set(reasons) == {name}


def test_metal_is_seen_and_told_first(gate):
    draw_implant, without = drawn(6, 200, bar=True), drawn(7, 200)
    seen = gate.implant_network.probability(draw_implant.pictures) > float(gate.implant_limit)
    assert seen.mean() > 0.9
    assert np.mean(gate.implant_network.probability(without.pictures) > float(gate.implant_limit)) < 0.02
    assert [q.reason for q in gate(draw_implant.part(seen))] == [IMPLANT] * int(seen.sum())


def test_phantoms_are_not_strange_and_what_lies_between_is(gate):
    found = [q.findings for q in gate(drawn(10, 300, PHANTOM))]
    assert np.mean([bool(each) for each in found]) < 0.2
    between = [q.reason for q in gate(drawn(11, 50, PHANTOM / 2))]
    assert all(reason is not None for reason in between)


def test_whitening_makes_the_distance_blind_to_scale():
    """Features in other units give the same distances, up to the shrinkage of a well-sampled covariance."""
    factor = np.geomspace(0.01, 100, FEATURES)
    sound = [drawn(seed, 1500) for seed in range(4)]
    scaled = [replace(s, features=s.features * factor) for s in sound]
    first, second = fitted(*sound), fitted(*scaled)
    np.testing.assert_allclose(second.distances(scaled[0]), first.distances(sound[0]), rtol=1e-3)


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
    read = load_quality_control(load_weights(path, "grader"))
    read.implant_network = Bright()
    knees = joined([drawn(8, 50), drawn(9, 50, bar=True)])
    assert read(knees) == gate(knees)
    assert load_quality_control(SimpleNamespace(part=lambda name: {})) is None
    assert isinstance(read, QualityControl)
