from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kneegrade.uncertainty import (
    ImplantNetwork,
    OODFeatures,
    Population,
    QualityControl,
    concatenate_features,
    fit_quality_control,
    load_quality_control,
    withholds_joint_space,
)
from kneegrade.uncertainty.ood_features import PHOTOMETRY_FEATURES, network_features, photometry_features
from kneegrade.uncertainty.quality_control import IMPLANT_FINDING, POSSIBLE_IMPLANT_FINDING, quality_scores
from kneegrade.weights import load_weights, save_weights

FEATURES = 12
PHANTOM = 100.0  # shift of the phantoms' features from those of real knees


def drawn(seed, number, shift=0.0, bar=0):
    """Random features of knees, with a bar of a grey value in the implant inputs if requested."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, FEATURES)) @ np.linspace(0.5, 2, FEATURES * FEATURES).reshape(FEATURES, -1)
    images = rng.integers(90, 140, (number, 144, 144), dtype=np.uint8)
    if bar:
        for image, (x, y) in zip(images, rng.integers(20, 100, (number, 2)), strict=True):
            image[y : y + 25, x : x + 5] = bar
    landmark_uncertainty = rng.beta(2, 20, number)
    photometry = rng.normal(0.5, 0.03, (number, PHOTOMETRY_FEATURES))
    return OODFeatures(features + shift, landmark_uncertainty, photometry, images)


class BrightnessNetwork(ImplantNetwork):
    """Classifies bright spots as metal: these tests are about the use of the network's output, not about the network.

    A grey value of 255 has the probability 0.98, 217 has 0.74, and those without a bar have less than 0.01.
    """

    def forward(self, images):
        return 20 * (images.amax((1, 2, 3)) - 0.8)


def fitted(real_train, real_reference, phantom_train, phantom_reference):
    real, phantoms = Population(real_train, real_reference), Population(phantom_train, phantom_reference)
    return fit_quality_control(real, phantoms, BrightnessNetwork())


@pytest.fixture(scope="module")
def quality_control():
    return fitted(drawn(0, 800), drawn(1, 600), drawn(2, 300, PHANTOM), drawn(3, 100, PHANTOM))


def test_the_share_of_normal_knees_with_findings_is_about_the_requested_one(quality_control):
    qualities = quality_control(drawn(4, 4000))
    assert 0.005 < np.mean([bool(q.findings) for q in qualities]) < 0.04  # 0.02 is requested
    low = np.mean([q.score < 0.05 for q in qualities])
    assert 0.02 < low < 0.08  # a share s scores s or less


def test_unusual_knees_are_graded_with_a_finding_for_the_feature_that_is_unusual(quality_control):
    normal = drawn(5, 20)
    for code, unusual in (
        ("unlike_training", replace(normal, features=normal.features + np.linspace(-60, 60, FEATURES))),
        ("unsure_landmarks", replace(normal, landmark_uncertainty=np.full(20, 0.9))),
        ("unusual_exposure", replace(normal, photometry=normal.photometry + 1.0)),
    ):
        qualities = quality_control(unusual)
        assert [{finding.code for finding in q.findings} for q in qualities] == [{code}] * 20
        assert {q.reason for q in qualities} == {None}
        assert {withholds_joint_space(q) for q in qualities} == {code == "unsure_landmarks"}


def test_unusual_landmarks_that_are_sure_enough_lower_the_score_without_a_finding(quality_control):
    """The landmarks of a tight crop are less sure than all reference knees, but three in four are right."""
    sure = replace(drawn(5, 20), landmark_uncertainty=np.full(20, 0.24))
    quality_control = replace_reference(quality_control, landmarks=0.1)
    qualities = quality_control(sure)
    assert {q.findings for q in qualities} == {()}
    assert max(q.score for q in qualities) < float(quality_control.warn)


def replace_reference(quality_control, *, landmarks):
    """A copy whose reference knees all have the same landmark uncertainty."""
    changed = deepcopy(quality_control)
    changed.reference[1] = landmarks
    return changed


def test_certain_metal_refuses_a_knee_whatever_else_is_unusual(quality_control):
    with_metal, without = drawn(6, 200, bar=255), drawn(7, 200)
    assert [q.reason for q in quality_control(with_metal)] == [IMPLANT_FINDING] * 200
    assert {q.reason for q in quality_control(without)} == {None}
    blurred = replace(with_metal, photometry=with_metal.photometry + 1.0)
    assert [q.reason for q in quality_control(blurred)] == [IMPLANT_FINDING] * 200


def test_possible_metal_is_a_finding_and_lowers_the_score(quality_control):
    qualities = quality_control(drawn(6, 200, bar=217))
    assert {q.reason for q in qualities} == {None}
    assert all(q.findings[0] == POSSIBLE_IMPLANT_FINDING for q in qualities)
    assert max(q.score for q in qualities) <= float(quality_control.warn)


def test_phantoms_are_usual_and_knees_between_phantoms_and_real_knees_are_not(quality_control):
    findings = [q.findings for q in quality_control(drawn(10, 300, PHANTOM))]
    assert np.mean([bool(each) for each in findings]) < 0.2
    assert all(q.findings for q in quality_control(drawn(11, 50, PHANTOM / 2)))


def test_distances_do_not_depend_on_the_scale_of_the_features():
    """Features in other units give the same distances, up to the shrinkage of a well-sampled covariance."""
    factor = np.geomspace(0.01, 100, FEATURES)
    normal = [drawn(seed, 1500) for seed in range(4)]
    scaled = [replace(s, features=s.features * factor) for s in normal]
    first, second = fitted(*normal), fitted(*scaled)
    np.testing.assert_allclose(second.distances(scaled[0]), first.distances(normal[0]), rtol=1e-3)


def test_quality_scores_are_three_times_the_smallest_p_value():
    np.testing.assert_allclose(quality_scores(np.array([[0.5, 0.2, 0.9], [0.01, 1, 1]])), [0.6, 0.03])


def test_hidden_landmarks_are_ignored():
    rng = torch.Generator().manual_seed(0)
    pooled, visible = torch.rand(3, 75, 8, generator=rng), torch.rand(3, 74, generator=rng) < 0.7
    first = network_features(pooled, visible)
    pooled[:, :74][~visible] = 99.0
    np.testing.assert_array_equal(network_features(pooled, visible), first)
    assert first.shape == (3, 24)
    visible_features = pooled[0, :74][visible[0]]
    np.testing.assert_allclose(first[0, :8], visible_features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first[0, 8:16], visible_features.std(0, correction=0), rtol=1e-4)


def test_photometry_features_use_only_pixels_on_the_film():
    roi = np.zeros((64, 64), np.float32)
    inside = np.zeros((64, 64), bool)
    inside[:, :32] = True
    roi[:, :32] = np.linspace(0.2, 0.6, 32)
    mean, deviation, clipped, _, *deciles, step, _ = photometry_features(roi, inside)
    assert (mean, clipped) == (pytest.approx(0.4), 0.0)
    np.testing.assert_allclose(deciles, 0.2 + 0.4 * np.linspace(0.1, 0.9, 9), atol=0.02)
    assert step == pytest.approx(0.4 / 31, rel=1e-4)  # the border of the film is not an edge
    assert deviation == pytest.approx(np.linspace(0.2, 0.6, 32).std(), rel=1e-5)


def test_quality_control_is_saved_and_loaded_with_the_weights_if_they_have_one(quality_control, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {f"gate.{k}": v for k, v in quality_control.state_dict().items()}
    save_weights(path, tensors, {"name": "w", "kind": "grader"})
    loaded = load_quality_control(load_weights(path, "grader"))
    loaded.implant_network = BrightnessNetwork()
    knees = concatenate_features([drawn(8, 50), drawn(9, 50, bar=255)])
    assert loaded(knees) == quality_control(knees)
    assert load_quality_control(SimpleNamespace(part=lambda name: {})) is None
    assert isinstance(loaded, QualityControl)


def test_the_only_limit_of_an_earlier_weights_file_becomes_that_of_possible_metal(quality_control, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {f"gate.{k}": v for k, v in quality_control.state_dict().items()}
    del tensors["gate.possible_implant_limit"]
    earlier = {"gate.implant_limit": torch.tensor(0.6), "gate.refuse": torch.tensor(0.01)}
    save_weights(path, tensors | earlier, {"name": "w", "kind": "grader"})
    loaded = load_quality_control(load_weights(path, "grader"))
    assert float(loaded.possible_implant_limit) == pytest.approx(0.6)
    assert float(loaded.implant_limit) == pytest.approx(0.95)


def test_a_nearly_constant_feature_does_not_dominate_the_distance():
    populations = [Population(drawn(seed, 200), drawn(seed + 1, 100)) for seed in (1, 3)]
    for population in populations:
        for part in (population.train, population.reference):
            part.features[:, 0] = np.where(np.arange(len(part.features)) % 25, 0.0, 1e-4)
    control = fit_quality_control(*populations, ImplantNetwork().eval())
    other = drawn(9, 20)
    other.features[:, 0] = 0.1
    ordinary = control.distances(drawn(10, 20))[:, 0].max()
    assert control.distances(other)[:, 0].max() < 10 * ordinary
