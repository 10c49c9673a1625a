import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.network import ModelConfig, load_network
from kneegrade.training.config import Model, Recipe
from kneegrade.training.initialization import build_network
from kneegrade.training.train_grader import GraderTask, train_recipe
from kneegrade.training.trainer import train
from kneegrade.weights import load_weights


def tiny(dataset: Path, **settings) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"datasets": [str(dataset)], "calibration_share": 0.25, "labelled_share": 0.7},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"warmup_epochs": 1, "grades_from": "packaged"},
            "train": {"epochs": 1, "batch_size": 6, "unlabelled_batch_size": 4, "ema": 0.9, "bf16": False, **settings},
        }
    )


def write(path: Path, recipe: Recipe) -> Path:
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def run(phantom_dataset, tmp_path_factory):
    """A finished run; its recipe is `tiny.yaml` beside it."""
    folder = tmp_path_factory.mktemp("grader")
    assert train_recipe(write(folder / "tiny.yaml", tiny(phantom_dataset)), folder / "run")
    return folder / "run"


def test_a_recipe_becomes_weights_with_their_description(run):
    weights = load_weights(run / "weights.safetensors", "grader")
    assert ModelConfig(**weights.description["model"]) == ModelConfig("resnet18", reduce=8, roi_px=64)
    assert weights.description["unlabelled_knees"] > 0
    assert weights.description["recipe"]["train"]["epochs"] == 1
    assert np.isfinite(weights.tensors["network.feature_mean"].numpy()).all()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"phantom/kl", "phantom/jsn_medial"} <= lines[-1]["calibration"].keys()
    assert list((run / "tensorboard").glob("events*"))
    predictions = Predictions.load(run / "predictions-calibration.parquet")
    assert len(predictions) == weights.description["calibration_knees"]


def test_a_directory_with_a_run_is_refused_without_resume(run):
    with pytest.raises(RecipeError, match="contains a run already; use --resume"):
        train_recipe(run.parent / "tiny.yaml", run)


def test_a_run_is_not_resumed_with_another_recipe(run):
    with pytest.raises(RecipeError, match="another recipe"):
        train_recipe(run.parent / "tiny.yaml", run, ["train.epochs=3"], resume=True)


def test_a_corrected_recipe_can_use_the_directory_of_a_refused_one(phantom_dataset, tmp_path):
    path = write(tmp_path / "tiny.yaml", tiny(phantom_dataset, steps_per_epoch=1))
    with pytest.raises(RecipeError, match="batch"):
        train_recipe(path, tmp_path / "run", ["train.batch_size=64"])
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    assert train_recipe(path, tmp_path / "run")


def test_too_few_knees_and_missing_initial_weights_are_refused(phantom_dataset, tmp_path):
    with pytest.raises(RecipeError, match="batch"):
        GraderTask(tiny(phantom_dataset, batch_size=64), tmp_path)
    with pytest.raises(RecipeError, match=r"model\.init"):
        GraderTask(tiny(phantom_dataset).model_copy(update={"model": Model(init=Path("nowhere"), roi_px=64)}), tmp_path)


def test_unlabelled_knees_are_added_after_the_warm_up(phantom_dataset, tmp_path):
    task = GraderTask(tiny(phantom_dataset), tmp_path)
    assert len(task.batch_rows(0, coherent=False)) == 6
    rows = task.batch_rows(2, coherent=True)
    assert len(rows) == 10
    assert set(rows[6:]) <= set(task.splits.unlabelled)
    assert np.isnan(task.targets[rows[6:]]).all()


def test_the_trunk_of_a_run_initializes_another_run_if_it_fits(run):
    weights = run / "weights.safetensors"
    model = Model(trunk="resnet18", roi_px=64, init=weights)
    initial = build_network(model, 1).trunk.state_dict()
    saved = load_weights(weights, "grader").part("network.trunk")
    torch.testing.assert_close(initial["layer3.1.conv2.weight"], saved["layer3.1.conv2.weight"])
    with pytest.raises(RecipeError, match="resnet18 of 4 stages"):
        build_network(model.model_copy(update={"stages": 4}), 1)


def test_input_normalization_is_saved_and_passed_to_the_next_run(phantom_dataset, tmp_path):
    recipe = tiny(phantom_dataset, steps_per_epoch=1).model_dump(mode="json")
    recipe["model"]["input_normalization"] = "imagenet"
    (tmp_path / "tiny.yaml").write_text(json.dumps(recipe))
    train_recipe(tmp_path / "tiny.yaml", tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    saved = load_weights(weights, "grader")
    assert saved.description["model"]["input_normalization"] == "imagenet"
    assert load_network(saved).trunk.input_normalization == "imagenet"
    recipe["model"].update(init=str(weights), input_normalization=None)
    following = GraderTask(Recipe.model_validate(recipe), tmp_path)
    assert following.network.trunk.input_normalization == "imagenet"


@pytest.mark.slow
def test_two_processes_train_one_run(phantom_dataset, tmp_path):
    """`accelerate launch` on two CPU processes: one log, one checkpoint, weights at the end."""
    path = write(tmp_path / "tiny.yaml", tiny(phantom_dataset, epochs=2))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command = [*launch, "-m", "kneegrade", "train", str(path), "--output", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    load_weights(tmp_path / "run" / "weights.safetensors", "grader")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert [line["step"] for line in lines if "calibration" in line] == [2, 4]
    assert any("gmm" in line for line in lines)
    with pytest.raises(
        RecipeError, match="another recipe"
    ):  # the checkpoint belongs to the recipe of the two processes
        train(GraderTask(tiny(phantom_dataset, epochs=3), tmp_path), tmp_path / "run", resume=True)
