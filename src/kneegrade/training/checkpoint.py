"""State of a training run that outlives a step: the moving average of the weights, and the checkpoint.

A checkpoint file is complete or absent. All random numbers and the
learning rate of a run are functions of the step, so network, optimiser, moving average and the number of steps done
are enough to continue bit for bit on one CPU process.
"""

from pathlib import Path
from typing import Any

import torch

from kneegrade.errors import RecipeError
from kneegrade.files import replacing


class ExponentialMovingAverage:
    """Exponential moving average of a network's floating-point parameters and buffers.

    Args:
        network: the average starts at its present state.
        decay: weight of the previous average at each step. It grows over the first steps, min(decay, (1 + n)/(10 + n)),
            so that a random initialisation is soon forgotten.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items() if v.is_floating_point()}

    def update(self, network: torch.nn.Module) -> None:
        """Move the average towards the network's present state."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if key in self.state:
                self.state[key].lerp_(value.detach(), 1 - decay)

    def copy_to(self, network: torch.nn.Module) -> None:
        """Give a network the averaged state; what is not floating-point stays as it is."""
        network.load_state_dict(self.state, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.steps = saved["steps"]
        for key, value in saved["state"].items():
            self.state[key].copy_(value)


def save_checkpoint(path: Path, identity: str, step: int, parts: dict[str, Any]) -> None:
    """Write the state of every part that is not None.

    Args:
        path: file to create or replace.
        identity: recipe of the run, as text.
        step: optimiser steps done.
        parts: objects with `state_dict` and `load_state_dict`, by name.

    Raises:
        UsageError: the file cannot be written, for example because the disk is full.
    """
    state = {name: part.state_dict() for name, part in parts.items() if part is not None}
    with replacing(path, "wb") as stream:
        try:
            torch.save({"recipe": identity, "step": step, "state": state}, stream)
        except RuntimeError as error:  # torch closes its archive, which fails too and hides the error of the system
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, identity: str, parts: dict[str, Any]) -> int:
    """Restore every part that is not None and return the number of steps done.

    Raises:
        RecipeError: the checkpoint belongs to another recipe, is damaged, or was written by the former training loop,
            whose `step` counted from the start of an `epoch`.
    """
    parts = {name: part for name, part in parts.items() if part is not None}
    unusable = f"{path} is damaged or was written by another version of kneegrade; remove it to train from the start."
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # its type depends on where the file is damaged
        raise RecipeError(unusable) from error
    if not isinstance(saved, dict) or saved.keys() != {"recipe", "step", "state"}:
        raise RecipeError(unusable)
    if saved["recipe"] != identity:
        raise RecipeError(f"{path} was written with another recipe; resume with the recipe.yaml of its run directory.")
    if not parts.keys() <= saved["state"].keys():
        raise RecipeError(unusable)
    for name, part in parts.items():
        part.load_state_dict(saved["state"][name])
    return int(saved["step"])
