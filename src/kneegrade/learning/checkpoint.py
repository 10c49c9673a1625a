"""Checkpoints that are whole or absent, and that resume a run where it stood.

All randomness of a run is a function of (seed, epoch, step), so model, optimiser, average and position are enough to
continue bit for bit on one CPU.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kneegrade.errors import RecipeError


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
