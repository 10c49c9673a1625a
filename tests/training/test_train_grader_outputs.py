"""Predictions, calibration and feature mean of a finished run belong to its weights file, which is in bfloat16."""

import json
import shutil

import numpy as np
import pytest
import torch

from kneegrade.evaluation import Predictions
from kneegrade.network import load_network
from kneegrade.training.batches import CropBatches
from kneegrade.training.config import Recipe
from kneegrade.training.dataset import load_datasets
from kneegrade.training.predict import feature_mean, predicted_logits, predictions_of
from kneegrade.training.splits import make_splits
from kneegrade.training.train_grader import train_recipe
from kneegrade.uncertainty import Postprocessor, fit_calibration
from kneegrade.weights import load_weights, shipped_path


def finish(folder, phantom_dataset, model, **train):
    """(folder, dataset, splits, network loaded from the file, its weights) of a run of two steps with a test split."""
    shutil.copytree(phantom_dataset, folder / "dataset")
    with np.load(folder / "dataset" / "knees.npz") as saved:
        knees = dict(saved)
    tested = np.isin(knees["subject"], np.unique(knees["subject"])[-4:])
    knees["split"] = np.where(tested, "test", "train")
    np.savez(folder / "dataset" / "knees.npz", **knees)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": [str(folder / "dataset")], "calibration_share": 0.25},
            "model": model,
            "loss": {"lambda_gmm": 0},
            "train": {"epochs": 1, "steps_per_epoch": 2, "learning_rate": 1e-3, "bf16": False, **train},
        }
    )
    (folder / "tiny.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert train_recipe(folder / "tiny.yaml", folder / "run")
    weights, dataset = (
        load_weights(folder / "run" / "weights.safetensors", "grader"),
        load_datasets((folder / "dataset",)),
    )
    return folder / "run", dataset, make_splits(dataset, recipe.data), load_network(weights), weights


@pytest.fixture(scope="module")
def finished(phantom_dataset, tmp_path_factory):
    model = {"trunk": "resnet18", "reduce": 8, "roi_px": 64}
    return finish(tmp_path_factory.mktemp("finished"), phantom_dataset, model, batch_size=6)


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_saved_predictions_are_those_of_the_saved_network(finished, split):
    folder, dataset, splits, network, _ = finished
    rows = getattr(splits, split)
    assert len(rows) >= 3
    expected = predictions_of(predicted_logits(network, CropBatches(dataset, 64), rows), dataset, rows)
    written = Predictions.load(folder / f"predictions-{split}.parquet")
    assert written.same_knees(expected)
    np.testing.assert_allclose(written.probabilities, expected.probabilities, rtol=0, atol=1e-6)


def test_saved_calibration_is_fitted_on_the_logits_of_the_saved_network(finished):
    _, dataset, splits, network, weights = finished
    logits = predicted_logits(network, CropBatches(dataset, 64), splits.calibration)
    fitted = fit_calibration(logits, torch.from_numpy(dataset.targets[splits.calibration])).state_dict()
    found = weights.part("calibration")
    assert found.keys() == fitted.keys()
    for name, expected in fitted.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    assert max(value.abs().max().item() for value in found.values()) > 0.1  # it is not the initial one


def test_saved_feature_mean_is_that_of_the_saved_network(finished):
    _, dataset, splits, network, weights = finished
    expected = feature_mean(network, CropBatches(dataset, 64), np.sort(splits.labelled))
    torch.testing.assert_close(weights.tensors["network.feature_mean"], expected, rtol=0, atol=1e-6)


def test_a_run_that_starts_from_a_grader_keeps_nothing_that_was_fitted_to_it(phantom_dataset, tmp_path):
    """Calibration and feature mean are its own; decoder, sets and quality control are removed, as a run fits none."""
    path = shipped_path("grader")
    before = load_weights(path, "grader")
    assert all(before.part(name) for name in ("calibration", "decoder", "sets", "gate"))
    model = {name: value for name, value in before.description["model"].items() if name != "roi_px"}
    _, dataset, splits, network, weights = finish(
        tmp_path, phantom_dataset, {**model, "roi_px": 64, "init": str(path)}, batch_size=2, frozen_stages=1
    )
    for name in ("conv_stem.weight", "blocks.0.0.conv_dw.weight"):  # frozen: the requested initial weights
        assert torch.equal(weights.part("network.trunk")[name], before.part("network.trunk")[name])
    assert {name.split(".")[0] for name in weights.tensors} == {"network", "mixture", "calibration"}
    assert not {"gate", "calibrated", "lineage"} & weights.description.keys()
    postprocessor = Postprocessor.of(weights)
    assert (postprocessor.decoder, postprocessor.sets) == (None, None)
    crops = CropBatches(dataset, 64)
    mean = feature_mean(network, crops, np.sort(splits.labelled))
    torch.testing.assert_close(weights.tensors["network.feature_mean"], mean, rtol=0, atol=1e-5)
    assert not torch.allclose(
        weights.tensors["network.feature_mean"], before.tensors["network.feature_mean"], atol=1e-3
    )
    logits = predicted_logits(network, crops, splits.calibration)
    own = fit_calibration(logits, torch.from_numpy(dataset.targets[splits.calibration])).state_dict()
    for name, expected in own.items():
        torch.testing.assert_close(weights.part("calibration")[name], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(weights.part("calibration")[name], before.part("calibration")[name], atol=1e-3), name
