"""The log of a run: a JSON line for every entry in `log.jsonl`, and the same numbers as TensorBoard events.

`ExponentialMovingAverage`: the exponential moving average of a network while it is trained.

Checkpoints that are whole or absent, and that resume a run where it stood.

All randomness of a run is a function of (seed, epoch, step), so model, optimiser, average and position are enough to
continue bit for bit on one CPU.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from kneegrade.errors import RecipeError
from kneegrade.files import replacing


class ExponentialMovingAverage:
    """Exponential moving average of a network's floating-point state.

    Args:
        network: where it starts.
        decay: share that stays at each step; it grows over the first steps, so that a random start is soon forgotten.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items() if v.is_floating_point()}

    def update(self, network: torch.nn.Module) -> None:
        """Move towards the network's present state."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if key in self.state:
                self.state[key].lerp_(value.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.steps = saved["steps"]
        for key, value in saved["state"].items():
            self.state[key].copy_(value)


@dataclass
class Position:
    """Where a run stands: `epoch` and `step` are the next to be done."""

    epoch: int = 0
    step: int = 0


def save_checkpoint(path: Path, recipe: str, position: Position, parts: dict[str, Any]) -> None:
    """Write the state of every part to a temporary file, then rename it to `path`."""
    state = {name: part.state_dict() for name, part in parts.items() if part is not None}
    partial = path.with_suffix(".tmp")
    torch.save({"recipe": recipe, "epoch": position.epoch, "step": position.step, "state": state}, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path, recipe: str, parts: dict[str, Any]) -> Position:
    """Restore every part and tell the position.

    Raises:
        RecipeError: the checkpoint belongs to another recipe.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["recipe"] != recipe:
        raise RecipeError(f"{path} was made by another recipe; resume with the recipe of its run folder.")
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(saved["state"][name])
    return Position(saved["epoch"], saved["step"])


class RunLog:
    """Writes entries while it is open; silent in all processes but the main one.

    Args:
        directory: the run's folder; events go to its `tensorboard/`.
        begun: optimiser steps done; what a stopped run logged beyond them is dropped, since it is done again.
        active: whether to write at all.
    """

    def __init__(self, directory: Path, begun: int = 0, active: bool = True) -> None:
        self.directory, self.begun, self.active = directory, begun, active
        self._events: Any = None

    def __enter__(self) -> "RunLog":
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self._drop_what_is_done_again()
            self._events = SummaryWriter(str(self.directory / "tensorboard"), purge_step=self.begun + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def _drop_what_is_done_again(self) -> None:
        path = self.directory / "log.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            with replacing(path) as stream:
                stream.writelines(line for line in lines if _step_of(line) <= self.begun)

    def write(self, step: int, entry: dict[str, Any]) -> None:
        """Add an entry of numbers, or of numbers by name and name, at optimiser step `step`."""
        if not self.active:
            return
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 1), "step": step, **entry}) + "\n")
        for name, value in _numbers(entry):
            self._events.add_scalar(name, value, step)


def _step_of(line: str) -> int:
    """The step of a line; a line cut short belongs to what is done again."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 2**62


def _numbers(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a nested mapping, with their path."""
    found = []
    for key, value in entry.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}/")
        else:
            found.append((prefix + key, float(value)))
    return found
