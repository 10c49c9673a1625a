"""`fit_network`: the loop that trains each of the detector's networks.

A task is a batch function of (step, generator) and a loss; all randomness is a function of (seed, step), so a run
resumes where it stood.
"""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kneegrade.training.checkpoint import ExponentialMovingAverage, Position, load_checkpoint, save_checkpoint
from kneegrade.training.config import DetectorRecipe, NetworkTraining

Batch = tuple[Tensor, ...]
Output = tuple[Tensor, Tensor]
Progress = Callable[[int, int, float], None]
CHECKPOINT_STEPS, LOG_STEPS = 200, 50


@dataclass(frozen=True)
class Task:
    """One network to be trained: its batches (pictures first), its loss, its recipe."""

    name: str
    network: nn.Module
    batch: Callable[[int, torch.Generator], Batch]
    loss: Callable[[Output, Batch], Tensor]
    training: NetworkTraining


def fit_network(task: Task, recipe: DetectorRecipe, directory: Path, progress: Progress | None = None) -> bool:
    """Train `task.network` in place with AdamW, one cosine cycle, a moving average, which it ends as.

    Resumes from its checkpoint in `directory`, written every 200 steps. False when a SIGTERM ended it early (the
    checkpoint is written).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = task.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = task.training
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    average = ExponentialMovingAverage(network, training.ema)
    parts, position = {"network": network, "optimiser": optimiser, "average": average}, Position()
    checkpoint = directory / f"{task.name}.pt"
    if checkpoint.is_file():
        position = load_checkpoint(checkpoint, recipe.model_dump_json(), parts)
    stop: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    network.train()
    try:
        for step in range(position.step, training.steps):
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * _rate(step / training.steps)
            batch = tuple(part.to(device) for part in task.batch(step, _generator(recipe.seed, step, task.name)))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                output = network(batch[0].to(memory_format=torch.channels_last))
            loss = task.loss(output, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            average.update(network)
            if progress:
                progress(step + 1, training.steps, loss.item())
            if step % LOG_STEPS == 0:
                _log(directory, {"network": task.name, "step": step, "loss": loss.item()})
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == training.steps or stop:
                save_checkpoint(checkpoint, recipe.model_dump_json(), Position(0, step + 1), parts)
            if stop:
                return False
    finally:
        signal.signal(signal.SIGTERM, previous)
    network.load_state_dict(average.state, strict=False)
    network.eval().cpu()
    return True


def _rate(share: float) -> float:
    """Factor of the learning rate: a short warm-up, then half a cosine."""
    return min(share / 0.03 + 1e-2, 0.5 * (1 + math.cos(math.pi * share)))


def _generator(seed: int, step: int, name: str) -> torch.Generator:
    key = np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(key))


def _log(directory: Path, line: dict[str, float | str]) -> None:
    with (directory / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **line}) + "\n")
