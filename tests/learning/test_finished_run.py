"""What a finished run writes belongs to the weights in its file, which holds them in bfloat16."""

import json
import shutil

import numpy as np
import pytest
import torch

from kneegrade.evaluation import Predictions
from kneegrade.learning.folds import folds_of
from kneegrade.learning.predicting import feature_mean, predicted_logits, predictions_of
from kneegrade.learning.recipe import Recipe
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import load_stores
from kneegrade.learning.train import train_recipe
from kneegrade.network import load_network
from kneegrade.uncertainty import fit_calibration
from kneegrade.weights import load_weights


@pytest.fixture(scope="module")
def finished(phantom_store, tmp_path_factory):
    """(folder, store, folds, network loaded from the file, its weights) of a run with a test split."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(phantom_store, folder / "store")
    with np.load(folder / "store" / "knees.npz") as saved:
        knees = dict(saved)
    tested = np.isin(knees["subject"], np.unique(knees["subject"])[-4:])
    knees["split"] = np.where(tested, "test", "train")
    np.savez(folder / "store" / "knees.npz", **knees)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"stores": [str(folder / "store")], "calibration_share": 0.25},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"lambda_gmm": 0},
            "train": {"epochs": 1, "steps_per_epoch": 2, "batch_size": 6, "learning_rate": 1e-3, "bf16": False},
        }
    )
    (folder / "tiny.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert train_recipe(folder / "tiny.yaml", folder / "run")
    held, store = load_weights(folder / "run" / "weights.safetensors", "grader"), load_stores((folder / "store",))
    return folder / "run", store, folds_of(store, recipe.data), load_network(held), held


@pytest.mark.parametrize("fold", ["test", "calibration"])
def test_the_network_in_the_file_gives_the_predictions_beside_it(finished, fold):
    folder, store, folds, network, _ = finished
    rows = getattr(folds, fold)
    assert len(rows) >= 3
    expected = predictions_of(predicted_logits(network, Regions(store, 64), rows), store, rows)
    written = Predictions.load(folder / f"predictions-{fold}.parquet")
    assert written.same_knees(expected)
    np.testing.assert_allclose(written.probabilities, expected.probabilities, rtol=0, atol=1e-6)


def test_calibration_in_the_file_is_the_one_fitted_on_its_networks_logits(finished):
    _, store, folds, network, held = finished
    logits = predicted_logits(network, Regions(store, 64), folds.calibration)
    fitted = fit_calibration(logits, torch.from_numpy(store.targets[folds.calibration])).state_dict()
    found = held.part("calibration")
    assert found.keys() == fitted.keys()
    for name, expected in fitted.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    assert max(value.abs().max().item() for value in found.values()) > 0.1  # it is not the one that it starts as


def test_feature_mean_in_the_file_is_its_networks(finished):
    _, store, folds, network, held = finished
    expected = feature_mean(network, Regions(store, 64), np.sort(folds.labelled))
    torch.testing.assert_close(held.tensors["network.feature_mean"], expected, rtol=0, atol=1e-6)
