"""Ensembles: mean logits, exact evidence, members with another input side, weights files."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional

from kneegrade.errors import WeightsError
from kneegrade.network import Ensemble, GradingNetwork, ModelConfig, load_network
from kneegrade.network.ensemble import resized
from kneegrade.training.combine_weights import combine_weights
from kneegrade.weights import load_weights, read_description, save_weights

SMALL = ModelConfig("resnet18", "keypoints+global", 2, reduce=4, roi_px=96)
LITE = ModelConfig("efficientnet_lite0", "keypoints+global", 4, reduce=8, roi_px=64, mask_outside=True)


def knees():
    generator = torch.Generator().manual_seed(5)
    points = torch.rand(2, 74, 2, generator=generator) * 95
    return torch.rand(2, 1, 96, 96, generator=generator), points, torch.ones(2, 74, dtype=torch.bool), None


def ensemble():
    torch.manual_seed(2)
    made = Ensemble([SMALL, LITE]).eval()
    for member in made.networks():
        member.feature_mean.normal_()
    return made


def test_logits_are_the_means_of_the_members_at_their_own_input_side():
    made, (roi, points, visible, inside) = ensemble(), knees()
    first, second = made.networks()
    smaller = functional.interpolate(roi, (64, 64), mode="bilinear", antialias=True)
    scaled = (points + 0.5) * (64 / 96) - 0.5
    expected = (first(roi, points, visible).logits["kl"] + second(smaller, scaled, visible).logits["kl"]) / 2
    output = made(roi, points, visible, inside)
    torch.testing.assert_close(output.logits["kl"], expected, rtol=0, atol=1e-5)
    assert made.config.roi_px == 96
    assert output.pooled.shape == (2, 75, 12)


def test_evidence_of_an_ensemble_adds_up_to_its_centred_logits(assert_evidence_is_exact):
    made = ensemble()
    assert_evidence_is_exact(made, made(*knees()))


def test_crop_landmarks_and_film_are_scaled_together():
    column = torch.arange(96.0).expand(1, 1, 96, 96) / 95
    points = torch.full((1, 74, 2), 47.5)
    inside = torch.arange(96).expand(1, 1, 96, 96) < 48
    roi, scaled, _, film = resized(column, points, inside, 64, torch.ones(1, 74, dtype=torch.bool))
    assert roi.shape == film.shape == (1, 1, 64, 64)
    torch.testing.assert_close(scaled, torch.full((1, 74, 2), 31.5))  # the middle stays the middle
    assert film[0, 0, 0].sum() == 32
    assert film[0, 0, :, :32].all()
    assert roi[0, 0, 0, 31:33].mean().item() == pytest.approx(0.5, abs=1e-3)


def member_file(folder, name, config):
    network = GradingNetwork(config)
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors["mixture.log_alpha"] = torch.zeros(3)
    save_weights(folder / f"{name}.safetensors", tensors, {
        "name": name, "kind": "grader", "model": asdict(config), "attribution": ["crops", name],
        "learnt_from": "readings",
    })  # fmt: skip
    return folder / f"{name}.safetensors"


def test_combined_weights_load_as_the_ensemble_of_their_members(tmp_path):
    torch.manual_seed(4)
    paths = [member_file(tmp_path, name, config) for name, config in (("one", SMALL), ("two", LITE))]
    combine_weights(paths, tmp_path / "both.safetensors")
    weights = load_weights(tmp_path / "both.safetensors", "grader")
    both, alone = load_network(weights), [load_network(load_weights(path, "grader")) for path in paths]
    for found, expected in zip(both.networks(), alone, strict=True):
        assert found.config == expected.config
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[key], value, rtol=0, atol=0)
    assert weights.description["attribution"] == ["crops", "one", "two"]
    assert [part["name"] for part in weights.description["member_weights"]] == ["one", "two"]


def test_an_ensemble_states_what_all_members_state(tmp_path):
    paths = [member_file(tmp_path, name, SMALL) for name in ("one", "two", "three")]
    about = (
        {"name": "one-calibrated@North", "licence": "Apache-2.0", "learnt_from": "Films of A."},
        {"name": "two", "licence": "CC-BY-4.0", "learnt_from": "Films of B."},
        {"name": "three", "licence": "Apache-2.0", "learnt_from": "Films of A."},
    )
    for path, own in zip(paths, about, strict=True):
        weights = load_weights(path, "grader")
        save_weights(path, weights.tensors, {**weights.description, **own})
    combine_weights(paths, tmp_path / "all.safetensors")
    found = read_description(tmp_path / "all.safetensors")
    assert (found["name"], found["licence"], found["learnt_from"]) == (
        "one-ensemble", "Apache-2.0 AND CC-BY-4.0", "Films of A. Films of B.",
    )  # fmt: skip


def test_networks_that_cannot_be_averaged_are_refused(tmp_path):
    one = member_file(tmp_path, "one", SMALL)
    other = member_file(tmp_path, "other", replace(SMALL, pooling="global", reduce=None))
    with pytest.raises(WeightsError, match="same pooling"):
        combine_weights([one, other], tmp_path / "both.safetensors")
    two = member_file(tmp_path, "two", SMALL)
    combine_weights([one, two], tmp_path / "both.safetensors")
    with pytest.raises(WeightsError, match="another ensemble"):
        combine_weights([one, tmp_path / "both.safetensors"], tmp_path / "again.safetensors")
