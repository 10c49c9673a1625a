"""From a recipe file to weights: `train_recipe` is what `kneegrade train` calls."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kneegrade.coherence import most_probable_grades
from kneegrade.errors import RecipeError
from kneegrade.files import replacing
from kneegrade.schema import TARGETS
from kneegrade.training.config import DetectorRecipe, Recipe, Section, load_recipe
from kneegrade.training.distillation import teacher_identities
from kneegrade.training.predict import feature_mean, predictions_of
from kneegrade.training.train_detector import train_detector
from kneegrade.training.trainer import Run
from kneegrade.uncertainty import fit_calibration
from kneegrade.weights import packed, save_weights, unpacked

Progress = Callable[[int, int, float | None], None]


def train_recipe(
    path: Path,
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Train what the recipe says into `directory`; True when it came to its end.

    The folder gets the resolved recipe, the log, checkpoints and, at the end, `weights.safetensors` + `weights.json`.

    Raises:
        RecipeError: a wrong recipe, or a folder that holds a run already while `resume` is off.
    """
    recipe = load_recipe(path, overrides)
    directory.mkdir(parents=True, exist_ok=True)
    resolved, text = directory / "recipe.yaml", recipe_text(recipe)
    if os.environ.get("RANK", "0") == "0":  # of several processes (`accelerate launch`) the first minds the folder
        if resolved.exists() and not resume:
            raise RecipeError(f"{directory} holds a run already; use --resume or another folder.")
        if resolved.exists() and resolved.read_text(encoding="utf-8") != text:
            raise RecipeError(f"{directory} holds a run of another recipe; resume with {resolved}.")
        _write_text(resolved, text)
    if isinstance(recipe, DetectorRecipe):
        return _train_detector(recipe, directory, progress)
    return _train_grader(recipe, directory, resume, progress)


def recipe_text(recipe: Recipe | DetectorRecipe) -> str:
    """A resolved recipe as it stands in its run's folder."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _train_grader(recipe: Recipe, directory: Path, resume: bool, progress: Progress | None) -> bool:
    run = Run(recipe, directory)
    if run.accelerator.is_main_process:
        _write_text(directory / "cohort.json", json.dumps(_cohort(run), indent=1))
    if not run.fit(resume, progress):
        return False
    if run.accelerator.is_main_process:
        _write_grader(run, directory)
    run.accelerator.wait_for_everyone()
    return True


def _cohort(run: Run) -> dict[str, Any]:
    """What the tables say of a run's knees: how many of each kind, and the grades read in all that are labelled."""
    folds = run.folds
    labelled = np.concatenate([folds.labelled, folds.calibration, folds.test])
    read = most_probable_grades(run.store.targets[labelled])
    grades = {
        t.name: np.bincount(read[read[:, index] >= 0, index], minlength=t.classes).tolist()
        for index, t in enumerate(TARGETS)
    }
    knees = {
        "labelled": len(folds.labelled),
        "unlabelled": len(folds.unlabelled),
        "calibration": len(folds.calibration),
        "test": len(folds.test),
    }
    init = run.recipe.model.init
    return {"knees": knees, "grades": grades, "init": None if init is None else init.parent.name + "/" + init.name}


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text)


def _write_grader(run: Run, directory: Path) -> None:
    """Write predictions for the calibration and test knees (uncalibrated), then the weights.

    Predictions, calibration and the mean of the features are those of the network that the file holds, in bfloat16.
    """
    recipe, network = run.recipe, run.final_network()
    network.load_state_dict(unpacked(packed(network.state_dict())))
    rows = np.random.default_rng(recipe.train.seed).permutation(run.folds.labelled)[:1000]
    mean = feature_mean(network, run.regions, np.sort(rows), recipe.train.bf16)  # moves the network to the device
    network.feature_mean.copy_(mean)
    logits = run.logits(network, run.folds.calibration)
    predictions_of(logits, run.store, run.folds.calibration).save(directory / "predictions-calibration.parquet")
    if len(run.folds.test):
        scored = run.logits(network, run.folds.test)
        predictions_of(scored, run.store, run.folds.test).save(directory / "predictions-test.parquet")
    calibration = fit_calibration(logits, torch.from_numpy(run.store.targets[run.folds.calibration]))
    parts = (("network", network), ("mixture", run.objective.mixture), ("calibration", calibration))
    tensors = {f"{part}.{key}": value for part, module in parts for key, value in module.state_dict().items()}
    save_weights(directory / "weights.safetensors", tensors, _description("grader", recipe, {
        "learnt_from": recipe.learnt_from,
        "teachers": teacher_identities(recipe.teaching),
        "model": asdict(network.config),
        "calibration_knees": len(run.folds.calibration),
        "training_knees": len(run.folds.labelled),
        "unlabelled_knees": 0 if run.unlabelled is None else len(run.folds.unlabelled),
    }))  # fmt: skip


def _train_detector(recipe: DetectorRecipe, directory: Path, progress: Progress | None) -> bool:
    tensors = train_detector(recipe, directory, progress)
    if tensors is None:
        return False
    save_weights(directory / "weights.safetensors", tensors, _description("detector", recipe, {}))
    return True


def _portable(value: Any) -> Any:
    """A recipe as JSON values, its paths cut down to names: weights travel, folders do not."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_portable(part) for part in value]
    return value


def _description(kind: str, recipe: Section, more: dict[str, Any]) -> dict[str, Any]:
    held = _portable(recipe.model_dump())
    return {
        "name": held["name"],
        "kind": kind,
        "licence": held["licence"],
        "attribution": held["attribution"],
        **more,
        "recipe": held,
    }
