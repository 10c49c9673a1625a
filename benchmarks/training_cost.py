"""Cost of a training step relative to the network alone, and estimated time for the paper's tables.

    python benchmarks/training_cost.py DATASET [--recipe recipes/paper/proposed.yaml] [--set model.trunk=resnet18 ...]

Prints JSON, medians over the steps without three warm-up steps:

- seconds per step and images per second;
- images per second of the bare network (forward, backward and optimiser on random tensors of the same shape, without
  our losses), and the ratio of both;
- shares of the step for fetching the batch (cropping, augmentation, targets), for L_gmm and for exact coherence
  (forward and backward);
- peak memory;
- from the images per second, the hours that the paper's tables would take at 60 epochs of the paper's cohort.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from kneegrade.coherence import concatenate_probabilities, incoherence_loss
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import make_params
from kneegrade.training.config import Recipe, load_recipe
from kneegrade.training.grid import SCALES, recipe_folder
from kneegrade.training.phantom_datasets import PaperCohort
from kneegrade.training.trainer import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--recipe", type=Path, default=recipe_folder() / "proposed.yaml", help="YAML file")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="key=value of the recipe")
    parser.add_argument("--steps", type=int, default=12, help="number of timed steps")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [f"data.stores=[{arguments.dataset}]", *arguments.settings])
    assert isinstance(recipe, Recipe)
    run = Run(recipe, Path(tempfile.mkdtemp()))
    run.position.epoch = recipe.loss.warmup_epochs  # after the warm-up, with coherence loss and unlabelled knees
    rows = run._rows(0, coherent=recipe.loss.coherence)
    batch = run.regions.batch(rows, changes(run, rows))
    shape, device = batch.roi.shape, run.accelerator.device

    step = timed(lambda i: run._step(i, 1.0), arguments.steps, device)
    data = timed(lambda i: fetch(run, i), arguments.steps, device)
    bare = timed(lambda i: bare_step(run, batch), arguments.steps, device)
    logits = {t.name: torch.randn(len(rows), t.classes, device=device, requires_grad=True) for t in TARGETS}
    gmm = timed(lambda i: mixture_loss(run, logits), arguments.steps, device)
    exact = timed(lambda i: exact_loss(run, logits), arguments.steps, device)
    per_second = len(rows) / step
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    print(json.dumps({
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "recipe": recipe.name, "trunk": recipe.model.trunk, "batch": list(shape),
        "seconds_per_step": round(step, 4),
        "images_per_second": round(per_second, 1),
        "bare_images_per_second": round(len(rows) / bare, 1),
        "bare_over_ours": round(step / bare, 3),
        "share_of_step_fetching_the_batch": round(data / step, 4),
        "share_of_step_for_l_gmm": round(gmm / step, 4),
        "share_of_step_for_exact_coherence": round(exact / step, 4),
        "peak_memory_mb": round((memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6),
        "hours_for_the_papers_tables": round(hours(per_second), 1),
    }, indent=1))  # fmt: skip


def timed(function: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Median seconds of `function`, called with 0, 1, …; the first three calls are not counted."""
    seconds = []
    for i in range(steps + 3):
        start = time.perf_counter()
        function(i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[3:])


def changes(run: Run, rows: np.ndarray) -> object:
    return make_params(len(rows), run.recipe.augmentation, torch.Generator().manual_seed(0))


def fetch(run: Run, number: int) -> None:
    rows = run._rows(number, coherent=run.recipe.loss.coherence)
    run.regions.batch(rows, changes(run, rows))
    torch.from_numpy(run.targets[rows]).to(run.accelerator.device)


def bare_step(run: Run, batch: object) -> None:
    noise = torch.rand_like(batch.roi)
    with run.accelerator.autocast():
        output = run.network(noise, batch.landmarks_px, batch.visible)
    loss = sum(logits.square().mean() for logits in output.logits.values())
    run.optimiser.zero_grad(set_to_none=True)
    run.accelerator.backward(loss)
    run.optimiser.step()


def mixture_loss(run: Run, logits: dict[str, torch.Tensor]) -> None:
    g = run.objective.mixture.log_probability(concatenate_probabilities(logits))
    incoherence_loss(g, run.recipe.loss.tau).mean().backward()


def exact_loss(run: Run, logits: dict[str, torch.Tensor]) -> None:
    (-run.objective.joint.log_expectation(concatenate_probabilities(logits)).mean()).backward()


def hours(images_per_second: float) -> float:
    """Hours for all recipes of the scale "paper" at this speed, including unlabelled batches where used."""
    cohort, total = PaperCohort(), 0.0
    for name in SCALES["paper"].recipes:
        recipe = load_recipe(recipe_folder() / f"{name}.yaml")
        assert isinstance(recipe, Recipe)
        labelled = cohort.labelled * recipe.data.labelled_share
        again = recipe.train.unlabelled_batch_size / recipe.train.batch_size if recipe.loss.coherence else 0
        total += recipe.train.epochs * labelled * (1 + again)
    return total / images_per_second / 3600


if __name__ == "__main__":
    main()
