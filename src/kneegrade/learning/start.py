"""Where a network starts: at random by the recipe's seed, its trunk from a file."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from kneegrade.errors import RecipeError
from kneegrade.learning.recipe import Model
from kneegrade.network import GradingNetwork, load_trunk

TRUNK_OF_WEIGHTS = "network.trunk."


def build_network(model: Model, seed: int) -> GradingNetwork:
    """The recipe's network with its start loaded; what the file does not hold is random, by `seed`.

    Raises:
        RecipeError: no such file, or one that does not hold this trunk.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GradingNetwork(model.plan)
    if model.init is not None:
        try:
            load_trunk(network.trunk, _trunk_state(model.init))
        except (KeyError, RuntimeError, SafetensorError) as error:
            raise RecipeError(
                f"model.init: {model.init.name} does not hold a {model.trunk} of {model.stages} stages: {error}."
            ) from error
    return network


def _trunk_state(path: Path) -> dict[str, Tensor]:
    """Tensors by torchvision's names, from a file of such or from a run's weights."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise RecipeError(f"model.init: there is no file {path}.")
    held = load_file(path)
    own = {k.removeprefix(TRUNK_OF_WEIGHTS): v for k, v in held.items() if k.startswith(TRUNK_OF_WEIGHTS)}
    return own or held
