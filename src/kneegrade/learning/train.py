"""From a recipe file to weights: `train_recipe` is what `kneegrade train` calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kneegrade.errors import RecipeError
from kneegrade.learning.detector import train_detector
from kneegrade.learning.recipe import DetectorRecipe, Recipe, Section, load_recipe
from kneegrade.learning.run import Run
from kneegrade.network import KeypointPoolingNetwork
from kneegrade.uncertainty import fit_calibration
from kneegrade.weights import save_weights

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
    resolved, text = directory / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    if resolved.exists() and not resume:
        raise RecipeError(f"{directory} holds a run already; use --resume or another folder.")
    if resolved.exists() and resolved.read_text(encoding="utf-8") != text:
        raise RecipeError(f"{directory} holds a run of another recipe; resume with {resolved}.")
    partial = resolved.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(resolved)
    if isinstance(recipe, DetectorRecipe):
        return _train_detector(recipe, directory, progress)
    return _train_grader(recipe, directory, resume, progress)


def _train_grader(recipe: Recipe, directory: Path, resume: bool, progress: Progress | None) -> bool:
    run = Run(recipe, directory)
    if not run.fit(resume, progress):
        return False
    network = run.final_network()
    network.feature_mean.copy_(_feature_mean(run, network))
    logits, targets = run.calibration_logits(network)
    calibration = fit_calibration(logits, targets)
    tensors = {
        f"{part}.{key}": value
        for part, module in (("network", network), ("mixture", run.mixture), ("calibration", calibration))
        for key, value in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    save_weights(directory / "weights.safetensors", tensors, _description("grader", recipe, {
        "model": recipe.model.model_dump(include={"trunk", "reduce", "roi_px"}),
        "calibration_knees": len(run.fold.calibration),
        "training_knees": len(run.fold.train),
    }))  # fmt: skip
    return True


def _feature_mean(run: Run, network: KeypointPoolingNetwork) -> torch.Tensor:
    """(74, R) mean of what the heads read over 1,000 training knees; what is not visible counts as zero."""
    rows = np.random.default_rng(run.recipe.train.seed).permutation(run.fold.train)[:1000]
    pooled = [features for _, features, _ in run.predict(network, np.sort(rows))]
    return torch.cat(pooled).mean(0)


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
