"""What a training step costs beside the network itself, and how long the paper's tables would take.

    python benchmarks/training_cost.py DATASET [--recipe recipes/paper/proposed.yaml] [--set model.trunk=resnet18 ...]

Prints, as JSON: seconds per step; images per second; the same for the bare network (forward, backward, optimiser on
random tensors of the same shape, no losses of ours); the share of the step spent outside forward, backward and
optimiser (cropping and augmenting the batch, fetching targets); the time of L_gmm and of exact coherence on a batch,
forward and backward, as shares of the step; peak memory; and, from the measured images per second, the hours that the
paper's tables would take at 60 epochs of the paper's cohort. Medians over the steps, after three that are not counted.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from kneegrade.coherence import concatenate_probabilities, incoherence_loss
from kneegrade.schema import TARGETS
from kneegrade.training.config import Recipe
from kneegrade.training.grid import SCALES, recipe_folder
from kneegrade.training.phantom_datasets import PaperCohort
from kneegrade.training.recipe_file import load_recipe
from kneegrade.training.train_grader import GraderTask
from kneegrade.training.trainer import make_optimizer, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--recipe", type=Path, default=recipe_folder() / "proposed.yaml")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    settings = [f"data.datasets=[{arguments.dataset}]", "loss.warmup_epochs=0", *arguments.settings]
    recipe = load_recipe(arguments.recipe, settings)
    assert isinstance(recipe, Recipe)
    task = GraderTask(recipe, Path(tempfile.mkdtemp()))
    shape, device = list(task.batch(0, 0)[0][0].shape), task.processes.device

    step = step_seconds(task, arguments.steps, device)
    data = timed(lambda i: task.batch(0, i), arguments.steps, device)
    bare = bare_seconds(task, arguments.steps, device)
    logits = {t.name: torch.randn(shape[0], t.classes, device=device, requires_grad=True) for t in TARGETS}
    gmm = timed(lambda i: mixture_loss(task, logits), arguments.steps, device)
    exact = timed(lambda i: exact_loss(task, logits), arguments.steps, device)
    per_second = shape[0] / step
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    print(json.dumps({
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "recipe": recipe.name, "trunk": recipe.model.trunk, "batch": shape,
        "seconds_per_step": round(step, 4),
        "images_per_second": round(per_second, 1),
        "bare_images_per_second": round(shape[0] / bare, 1),
        "bare_over_ours": round(step / bare, 3),
        "share_of_step_fetching_the_batch": round(data / step, 4),
        "share_of_step_for_l_gmm": round(gmm / step, 4),
        "share_of_step_for_exact_coherence": round(exact / step, 4),
        "peak_memory_mb": round((memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e6),
        "hours_for_the_papers_tables": round(hours(per_second), 1),
    }, indent=1))  # fmt: skip


def step_seconds(task: GraderTask, steps: int, device: torch.device) -> float:
    """Median seconds of a step of the training loop; the first three are not counted."""
    task.settings = replace(task.settings, epochs=1, steps_per_epoch=steps + 3)
    times = []

    def progress(done: int, total: int, loss: float | None) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    train(task, progress=progress)
    return median(np.diff(times)[2:])


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


def bare_seconds(task: GraderTask, steps: int, device: torch.device) -> float:
    """Median seconds of forward, backward and optimiser alone."""
    network = task.network.train().to(device)
    optimizer, bf16 = make_optimizer(task), task.settings.bf16
    inputs, _ = task.batch(0, 0)

    def step(number: int) -> None:
        noise = torch.rand_like(inputs[0])
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = network(noise, *(part.to(device) for part in inputs[1:]))
        loss = sum(logits.square().mean() for logits in output.logits.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return timed(step, steps, device)


def mixture_loss(task: GraderTask, logits: dict[str, torch.Tensor]) -> None:
    g = task.loss.mixture.log_probability(concatenate_probabilities(logits))
    incoherence_loss(g, task.recipe.loss.tau).mean().backward()


def exact_loss(task: GraderTask, logits: dict[str, torch.Tensor]) -> None:
    (-task.loss.joint.log_expectation(concatenate_probabilities(logits)).mean()).backward()


def hours(images_per_second: float) -> float:
    """Of the whole grid of the scale "paper" at this speed: labelled knees, and as many unlabelled where read."""
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
