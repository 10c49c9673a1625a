"""What `site_profile` keeps of a knee, against a plain loop over its visible landmarks."""

import shutil
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.network import GradingNetwork, ModelConfig, load_network
from kneegrade.training.augmentation import identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import site_profile
from kneegrade.uncertainty import Calibration
from kneegrade.weights import load_weights, save_weights

REDUCE = 8


def grader(folder, pooling):
    """Weights of a small network that has learnt nothing."""
    torch.manual_seed(0)
    plan = ModelConfig("resnet18", pooling, reduce=REDUCE, roi_px=64)
    parts = {"network": GradingNetwork(plan), "calibration": Calibration()}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    save_weights(folder / "w.safetensors", tensors, {"name": "w", "kind": "grader", "model": asdict(plan)})
    return folder / "w.safetensors"


@pytest.fixture
def hidden_store(phantom_store, tmp_path):
    """Phantoms of which most landmarks are hidden, of the first all."""
    shutil.copytree(phantom_store, tmp_path / "store")
    arrays = dict(np.load(tmp_path / "store" / "knees.npz"))
    arrays["visible"] = arrays["visible"] & (np.random.default_rng(0).random(arrays["visible"].shape) < 0.3)
    arrays["visible"][0] = False
    np.savez(tmp_path / "store" / "knees.npz", **arrays)
    return tmp_path / "store"


def read_singly(weights, directory):
    """Of each knee, read alone: features at the visible landmarks, and what else the network reads."""
    network, store = load_network(load_weights(weights, "grader")).eval(), load_datasets((directory,))
    regions = CropBatches(store, 64)
    for row in range(len(store)):
        batch = regions.batch(np.array([row]), identity_params(1))
        with torch.no_grad():
            pooled = network(batch.roi, batch.landmarks_px, batch.visible).pooled[0].numpy().astype(np.float64)
        landmarks, others = (pooled[:74], pooled[74:]) if len(pooled) >= 74 else (pooled[:0], pooled)
        yield [at for at, seen in zip(landmarks, batch.visible[0].tolist(), strict=False) if seen], list(others)


@pytest.mark.parametrize(("pooling", "branches"), [("keypoints", 0), ("keypoints+global", 1)])
def test_hidden_landmarks_are_not_counted_and_the_global_branch_stands_apart(hidden_store, tmp_path, pooling, branches):
    weights = grader(tmp_path, pooling)
    profile, left_out = site_profile(hidden_store, weights, device="cpu")
    assert left_out == []
    assert profile.features.shape == (24, (1 + branches) * REDUCE)
    for row, (seen, others) in enumerate(read_singly(weights, hidden_store)):
        assert len(others) == branches
        mean = [sum(at[channel] for at in seen) / max(1, len(seen)) for channel in range(REDUCE)]
        expected = mean + [value for other in others for value in other]
        np.testing.assert_allclose(profile.features[row], expected, rtol=1e-4, atol=1e-6)
    assert (profile.features[0, :REDUCE] == 0).all()
    assert (profile.features[1:, :REDUCE] != 0).any(axis=1).all()


@pytest.mark.parametrize(("pooling", "places"), [("global", 1), ("siamese", 2)])
def test_a_network_that_reads_no_landmark_gives_what_it_reads(hidden_store, tmp_path, pooling, places):
    weights = grader(tmp_path, pooling)
    profile, _ = site_profile(hidden_store, weights, device="cpu")
    expected = [np.concatenate(others) for _, others in read_singly(weights, hidden_store)]
    assert profile.features.shape == (24, places * REDUCE)
    np.testing.assert_allclose(profile.features, expected, rtol=1e-4, atol=1e-6)


def test_a_profile_of_another_version_is_refused(hidden_store, tmp_path):
    weights = grader(tmp_path, "keypoints+global")
    profile, _ = site_profile(hidden_store, weights, device="cpu")
    path = tmp_path / "profile.parquet"
    profile.save(path)
    np.testing.assert_array_equal(site_profile(path, weights, device="cpu")[0].features, profile.features)
    table = pd.read_parquet(path)
    table["features"] = [features[:REDUCE] for features in table["features"]]
    for other in (table.drop(columns="version"), table.assign(version=1), pd.read_parquet(path).assign(version=99)):
        other.to_parquet(path)
        with pytest.raises(
            RecipeError, match=r"^profile\.parquet .* by another version of kneegrade; make it again of the films"
        ):
            site_profile(path, weights, device="cpu")
