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
from kneegrade.training.checkpoint import RunLog
from kneegrade.training.config import Model, Recipe, Train
from kneegrade.training.initialization import build_network
from kneegrade.training.train_grader import train_recipe
from kneegrade.training.trainer import Run, rate_at
from kneegrade.weights import load_weights


def tiny(store, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"stores": [str(store)], "calibration_share": 0.25, "labelled_share": 0.7},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"warmup_epochs": 1, "grades_from": "packaged"},
            "augmentation": {"log_gamma": 0.2, "noise": 0.02, "landmark_dropout": 0.1},
            "train": {"epochs": 2, "batch_size": 6, "unlabelled_batch_size": 4, "ema": 0.9, "bf16": False, **train},
        }
    )


def state_of(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.final_network().state_dict().items()}


def test_a_stopped_run_resumes_bit_for_bit(phantom_store, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    straight = Run(tiny(phantom_store), whole)
    assert straight.fit()

    first = Run(tiny(phantom_store), broken)

    def stop_in_the_second_epoch(done: int, total: int, loss: float | None) -> None:
        first.stopped = done == 3

    assert not first.fit(progress=stop_in_the_second_epoch)
    second = Run(tiny(phantom_store), broken)
    assert second.fit(resume=True)
    expected = state_of(straight)
    for key, value in state_of(second).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_from_recipe_to_weights(phantom_store, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny(phantom_store, epochs=1).model_dump(mode="json")))
    assert train_recipe(path, tmp_path / "run")
    held = load_weights(tmp_path / "run" / "weights.safetensors", "grader")
    assert ModelConfig(**held.description["model"]) == ModelConfig("resnet18", reduce=8, roi_px=64)
    assert held.description["unlabelled_knees"] > 0
    assert held.description["recipe"]["train"]["epochs"] == 1
    assert np.isfinite(held.tensors["network.feature_mean"].numpy()).all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"phantom/kl", "phantom/jsn_medial"} <= lines[-1]["calibration"].keys()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    predictions = Predictions.load(tmp_path / "run" / "predictions-calibration.parquet")
    assert len(predictions) == held.description["calibration_knees"]
    with pytest.raises(RecipeError, match="resume"):
        train_recipe(path, tmp_path / "run")


def test_too_few_knees_and_a_missing_start_are_sentences(phantom_store, tmp_path):
    with pytest.raises(RecipeError, match="batch"):
        Run(tiny(phantom_store, batch_size=64), tmp_path)
    with pytest.raises(RecipeError, match=r"model\.init"):
        Run(tiny(phantom_store).model_copy(update={"model": Model(init=Path("nowhere"), roi_px=64)}), tmp_path)


def test_another_recipe_cannot_resume_a_run(phantom_store, tmp_path):
    Run(tiny(phantom_store, epochs=1), tmp_path).fit()
    with pytest.raises(RecipeError, match="another recipe"):
        Run(tiny(phantom_store, epochs=3), tmp_path).fit(resume=True)


def test_unlabelled_knees_join_once_coherence_counts(phantom_store, tmp_path):
    run = Run(tiny(phantom_store), tmp_path)
    assert len(run._rows(0, coherent=False)) == 6
    rows = run._rows(2, coherent=True)
    assert len(rows) == 10
    assert set(rows[6:]) <= set(run.folds.unlabelled)
    assert np.isnan(run.targets[rows[6:]]).all()


@pytest.mark.parametrize(
    "model",
    [
        {"pooling": "global", "stages": 4},
        {"pooling": "siamese", "stages": 4},
        {"pooling": "keypoints+global"},
        {"heads": "ordinal"},
        {"regression": True},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_every_kind_of_network_learns(phantom_store, tmp_path, model):
    """Loss on the same batch falls over a few steps, whatever the parts."""
    recipe = tiny(phantom_store, learning_rate=1e-3, batch_size=12).model_dump(mode="json")
    recipe["model"].update(model)
    recipe["loss"].update(lambda_mse=1.0 if "regression" in model else 0.0, lambda_gmm=0.0)
    recipe["augmentation"] = {"translation_px": 0, "rotation_deg": 0, "scale": 0}
    run = Run(Recipe.model_validate(recipe), tmp_path)
    losses = [run._step(0, 1.0)["loss"].item() for _ in range(20)]
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_regression_heads_and_their_loss_go_together(phantom_store):
    recipe = tiny(phantom_store).model_dump(mode="json")
    recipe["model"]["regression"] = True
    with pytest.raises(ValueError, match="lambda_mse"):
        Recipe.model_validate(recipe)


def test_the_papers_schedule_halves_after_epochs_10_and_30_of_60():
    train = Train()
    assert [rate_at(train, epoch) for epoch in (0, 9.99, 10, 29.9, 30, 59)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rate_at(Train(epochs=6), 1) == 0.5


def test_a_trunk_starts_from_a_runs_weights_and_says_what_does_not_fit(phantom_store, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny(phantom_store, epochs=1).model_dump(mode="json")))
    train_recipe(path, tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    model = Model(trunk="resnet18", roi_px=64, init=weights)
    started = build_network(model, 1).trunk.state_dict()
    held = load_weights(weights, "grader").part("network.trunk")
    torch.testing.assert_close(started["layer3.1.conv2.weight"], held["layer3.1.conv2.weight"])
    with pytest.raises(RecipeError, match="resnet18 of 4 stages"):
        build_network(model.model_copy(update={"stages": 4}), 1)


def test_a_run_saves_what_its_trunk_does_to_the_input_and_the_next_run_takes_it(phantom_store, tmp_path):
    recipe = tiny(phantom_store, epochs=1, steps_per_epoch=1).model_dump(mode="json")
    recipe["model"]["input_normalization"] = "imagenet"
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(recipe))
    train_recipe(path, tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    held = load_weights(weights, "grader")
    assert held.description["model"]["input_normalization"] == "imagenet"
    assert load_network(held).trunk.input_normalization == "imagenet"
    recipe["model"].update(init=str(weights), input_normalization=None)
    following = Run(Recipe.model_validate(recipe), tmp_path)
    assert following.final_network().trunk.input_normalization == "imagenet"


@pytest.mark.slow
def test_two_processes_train_as_one_run(phantom_store, tmp_path):
    """`accelerate launch` on two CPU processes: one log, one checkpoint, weights at the end."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny(phantom_store, epochs=2).model_dump(mode="json")))
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
    with pytest.raises(RecipeError, match="another recipe"):  # the checkpoint is of the two processes' recipe
        Run(tiny(phantom_store, epochs=3), tmp_path / "run").fit(resume=True)


def test_what_was_logged_beyond_the_checkpoint_is_dropped_on_resuming(tmp_path):
    with RunLog(tmp_path) as log:
        for step in (1, 20, 40):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4')
    with RunLog(tmp_path, begun=20) as log:
        log.write(40, {"loss": 7.0, "calibration": {"x/kl": {"kappa": 0.5}}})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (20, 20.0), (40, 7.0)]


def test_frozen_stages_keep_their_weights_and_the_rest_learns(phantom_store, tmp_path):
    recipe = tiny(phantom_store, frozen_stages=1, epochs=1)
    run = Run(recipe, tmp_path)
    before = {k: v.clone() for k, v in state_of(run).items()}
    run.fit()
    moved = {
        k for k, v in state_of(run).items() if not torch.equal(v, before[k]) and "running" not in k and "num_b" not in k
    }
    assert not any(k.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1")) for k in moved)
    assert any(k.startswith("trunk.layer2") for k in moved)
    assert any(k.startswith("heads") for k in moved)
