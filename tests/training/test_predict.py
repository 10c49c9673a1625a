import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.network import GradingNetwork, ModelConfig, load_network
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import dataset_predictions, evaluate_manifest, predict_knees, site_profile
from kneegrade.training.predict_films import requested
from kneegrade.uncertainty import Calibration, ConformalSets, SiteMap, SiteScale
from kneegrade.weights import load_weights, save_weights

EXAMPLES = Path(__file__).parents[2] / "examples"
FEATURES = 8  # of each read point


def grader(folder, pooling):
    """Weights of a small, untrained network."""
    torch.manual_seed(0)
    config = ModelConfig("resnet18", pooling, reduce=FEATURES, roi_px=64)
    parts = {"network": GradingNetwork(config), "calibration": Calibration()}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    save_weights(folder / "w.safetensors", tensors, {"name": "w", "kind": "grader", "model": asdict(config)})
    return folder / "w.safetensors"


@pytest.fixture
def hidden_landmarks(phantom_dataset, tmp_path):
    """A dataset of phantoms of which most landmarks are hidden, in the first knee all."""
    shutil.copytree(phantom_dataset, tmp_path / "data")
    arrays = dict(np.load(tmp_path / "data" / "knees.npz"))
    arrays["visible"] = arrays["visible"] & (np.random.default_rng(0).random(arrays["visible"].shape) < 0.3)
    arrays["visible"][0] = False
    np.savez(tmp_path / "data" / "knees.npz", **arrays)
    return tmp_path / "data"


def features_one_by_one(weights, directory):
    """For each knee, read alone: features at the visible landmarks, and those of the other read points."""
    network, dataset = load_network(load_weights(weights, "grader")).eval(), load_datasets((directory,))
    crops = CropBatches(dataset, 64)
    for row in range(len(dataset)):
        batch = crops.batch(np.array([row]), identity_params(1))
        with torch.no_grad():
            pooled = network(batch.roi, batch.landmarks_px, batch.visible).pooled[0].numpy().astype(np.float64)
        landmarks, others = (pooled[:74], pooled[74:]) if len(pooled) >= 74 else (pooled[:0], pooled)
        yield [at for at, seen in zip(landmarks, batch.visible[0].tolist(), strict=False) if seen], list(others)


@pytest.mark.parametrize(("pooling", "branches"), [("keypoints", 0), ("keypoints+global", 1)])
def test_drift_features_leave_out_hidden_landmarks_and_keep_the_global_branch_apart(
    hidden_landmarks, tmp_path, pooling, branches
):
    weights = grader(tmp_path, pooling)
    profile, left_out = site_profile(hidden_landmarks, weights, device="cpu")
    assert left_out == []
    assert profile.features.shape == (24, (1 + branches) * FEATURES)
    for row, (visible, others) in enumerate(features_one_by_one(weights, hidden_landmarks)):
        assert len(others) == branches
        mean = [sum(at[channel] for at in visible) / max(1, len(visible)) for channel in range(FEATURES)]
        expected = mean + [value for other in others for value in other]
        np.testing.assert_allclose(profile.features[row], expected, rtol=1e-4, atol=1e-6)
    assert (profile.features[0, :FEATURES] == 0).all()
    assert (profile.features[1:, :FEATURES] != 0).any(axis=1).all()


@pytest.mark.parametrize(("pooling", "read_points"), [("global", 1), ("siamese", 2)])
def test_drift_features_of_a_network_without_landmarks_are_its_read_points(
    hidden_landmarks, tmp_path, pooling, read_points
):
    weights = grader(tmp_path, pooling)
    profile, _ = site_profile(hidden_landmarks, weights, device="cpu")
    expected = [np.concatenate(others) for _, others in features_one_by_one(weights, hidden_landmarks)]
    assert profile.features.shape == (24, read_points * FEATURES)
    np.testing.assert_allclose(profile.features, expected, rtol=1e-4, atol=1e-6)


def test_a_profile_of_another_version_or_of_other_weights_is_refused(hidden_landmarks, tmp_path):
    weights = grader(tmp_path, "keypoints+global")
    profile, _ = site_profile(hidden_landmarks, weights, device="cpu")
    path = tmp_path / "profile.parquet"
    profile.save(path)
    np.testing.assert_array_equal(site_profile(path, weights, device="cpu")[0].features, profile.features)
    with pytest.raises(RecipeError, match="is a profile of other weights"):
        site_profile(path, device="cpu")
    table = pd.read_parquet(path)
    table["features"] = [features[:FEATURES] for features in table["features"]]
    for other in (table.drop(columns="version"), table.assign(version=1), pd.read_parquet(path).assign(version=99)):
        other.to_parquet(path)
        with pytest.raises(RecipeError, match=r"^profile\.parquet .* version of kneegrade"):
            site_profile(path, weights, device="cpu")


def test_the_dataset_route_gives_what_a_loaded_dataset_gives(phantom_dataset, tmp_path):
    weights, dataset = grader(tmp_path, "keypoints"), load_datasets((phantom_dataset,))
    knees = predict_knees(phantom_dataset, weights, device="cpu")
    expected = dataset_predictions(weights, dataset, np.arange(24))
    np.testing.assert_array_equal(knees.predictions.probabilities, expected.probabilities)
    assert knees.predictions.same_knees(expected)
    assert (knees.landmarks, knees.left_out, len(knees)) == ("manifest", (), 24)
    assert {name: value.shape for name, value in knees.logits.items()} == {t.name: (24, t.classes) for t in TARGETS}
    with pytest.raises(ValueError, match="was not requested"):
        requested(knees.ood_features)


def test_the_pipeline_does_not_use_the_only_detected_knee_for_both_sides():
    """A film with one knee, listed with two: the grades are of the side that was found, the other is left out."""
    row = {"image_path": str(EXAMPLES / "single_right.dcm"), "subject_id": "a", "split": "test", "source": "x", "kl": 1}
    table = pd.DataFrame([{**row, "side": side, "knee_id": side} for side in ("L", "R")])
    calls: list[tuple[int, int]] = []
    result = evaluate_manifest(table, "test", device="cpu", progress=lambda done, films: calls.append((done, films)))
    assert calls == [(1, 1)]
    assert result.landmarks == "detector"
    assert result.predictions.knee.tolist() == [1]
    assert len(result.left_out) == 1
    assert "no gradable L knee" in result.left_out[0]


@pytest.mark.parametrize("pipeline", [False, True])
def test_the_only_knee_of_a_film_is_found_without_a_recorded_side(pipeline):
    row = {"image_path": str(EXAMPLES / "single_right.dcm"), "subject_id": "a", "split": "test", "source": "x", "kl": 1}
    found = {
        side: predict_knees(pd.DataFrame([{**row, "knee_id": "a", "side": side}]), pipeline=pipeline, device="cpu")
        for side in ("R", "unknown")
    }
    assert [len(knees) for knees in found.values()] == [1, 1]
    np.testing.assert_array_equal(found["unknown"].probabilities, found["R"].probabilities)


def test_incomplete_landmarks_and_missing_grades_are_refused():
    row = {"image_path": "nowhere.png", "subject_id": "a", "side": "R", "split": "test", "source": "x", "kl": 1}
    table = pd.DataFrame([{**row, "landmarks_px": landmarks} for landmarks in (None, [0.0] * 148)])
    with pytest.raises(RecipeError, match=r"1 of the 2 knees have no landmarks; use --detect"):
        evaluate_manifest(table, "test")
    with pytest.raises(RecipeError, match="has a grade to compare with"):
        evaluate_manifest(table.iloc[[1]].assign(kl=None), "test")
    with pytest.raises(RecipeError, match="no knee in split 'val'; its splits are test"):
        evaluate_manifest(table, "val")


def test_teachers_and_profiles_are_on_the_studys_scale(phantom_dataset, tmp_path):
    study = grader(tmp_path, "keypoints")
    scale = SiteScale("North", 60, {"kl": SiteMap("bias", np.array([2.0, 1, 0, 0, -2]))}, ConformalSets())
    loaded, site = load_weights(study, "grader"), tmp_path / "site.safetensors"
    about = {**loaded.description, "site": {"name": "North", "knees": 60}}
    save_weights(site, {**loaded.tensors, **scale.tensors()}, about)
    dataset, rows = load_datasets((phantom_dataset,)), np.arange(6)
    reported = requested(predict_knees(phantom_dataset, site, device="cpu").probabilities)[:6]
    plain, teacher = (dataset_predictions(path, dataset, rows).probabilities for path in (study, site))
    assert np.abs(reported - plain).max() > 0.05
    np.testing.assert_array_equal(teacher, plain)
    profiles = [site_profile(phantom_dataset, path, device="cpu")[0].probabilities for path in (study, site)]
    np.testing.assert_array_equal(profiles[1], profiles[0])
