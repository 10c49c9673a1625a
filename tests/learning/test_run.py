import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kneegrade.errors import RecipeError
from kneegrade.learning.recipe import Model, Recipe
from kneegrade.learning.run import Run, split_by_subject
from kneegrade.learning.store import load_stores
from kneegrade.learning.train import train_recipe
from kneegrade.weights import load_weights


def tiny(store, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"stores": [str(store)], "calibration_share": 0.25},
            "model": {"trunk": "resnet18", "reduce": 8, "roi_px": 64},
            "loss": {"warmup_epochs": 1},
            "augmentation": {"log_gamma": 0.2, "noise": 0.02, "landmark_dropout": 0.1},
            "train": {"epochs": 2, "batch_size": 6, "ema": 0.9, "bf16": False, **train},
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
        first.stopped = done == 4

    assert not first.fit(progress=stop_in_the_second_epoch)
    second = Run(tiny(phantom_store), broken)
    assert second.fit(resume=True)
    expected = state_of(straight)
    for key, value in state_of(second).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_no_subject_is_trained_on_and_calibrated_with(phantom_store):
    store = load_stores((phantom_store,))
    fold = split_by_subject(store, 0.25, seed=0)
    assert not set(store.subject[fold.train]) & set(store.subject[fold.calibration])
    assert len(fold.train) + len(fold.calibration) == len(store)
    assert len(fold.calibration) == 6


def test_from_recipe_to_weights(phantom_store, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny(phantom_store, epochs=1).model_dump(mode="json")))
    assert train_recipe(path, tmp_path / "run")
    held = load_weights(tmp_path / "run" / "weights.safetensors", "grader")
    assert held.description["model"] == {"trunk": "resnet18", "reduce": 8, "roi_px": 64}
    assert held.description["recipe"]["train"]["epochs"] == 1
    assert np.isfinite(held.tensors["network.feature_mean"].numpy()).all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"phantom/kl", "phantom/jsn_medial"} <= lines[-1]["calibration"].keys()
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
