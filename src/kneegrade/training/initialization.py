"""The start of a network: random from the recipe's seed, with the trunk from a file where the recipe names one.

A trunk's weights belong to the input that they were trained on, so the start also sets `input_normalization`:

- random start: "none", unless the recipe says otherwise;
- `weights.safetensors` of a run: what the description beside it says; a recipe that says otherwise is an error;
- a file of trunk tensors alone: what the recipe says; a recipe that says nothing is an error.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from kneegrade.errors import RecipeError, WeightsError
from kneegrade.network import GradingNetwork, ModelConfig, load_trunk, model_config_of
from kneegrade.network.resnet import InputNormalization
from kneegrade.training.config import Model
from kneegrade.weights import load_weights

TRUNK_OF_WEIGHTS = "network.trunk"


def build_network(model: Model, seed: int) -> GradingNetwork:
    """The recipe's network with its start loaded; what the file does not hold is random, by `seed`.

    Raises:
        RecipeError: no such file, one that does not hold this trunk, damaged weights, or an `input_normalization` that
            is missing or that contradicts the weights' description.
    """
    if model.init is None:
        return _random(model.config_with(model.input_normalization or "none"), seed)
    state, input_normalization = _start(model.init, model.input_normalization)
    network = _random(model.config_with(input_normalization), seed)
    try:
        load_trunk(network.trunk, state)
    except (KeyError, RuntimeError) as error:
        raise RecipeError(
            f"model.init: {model.init.name} does not hold a {model.trunk} of {model.stages} stages: {error}."
        ) from error
    return network


def _random(plan: ModelConfig, seed: int) -> GradingNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GradingNetwork(plan)


def _start(path: Path, asked: InputNormalization | None) -> tuple[dict[str, Tensor], InputNormalization]:
    """The trunk's tensors by torchvision's names, and what the trunk does to its input.

    Args:
        path: safetensors file.
        asked: the recipe's `input_normalization`.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise RecipeError(f"model.init: there is no file {path}.")
    try:
        held = load_file(path)
    except SafetensorError as error:
        raise RecipeError(f"model.init: {path.name} is not a safetensors file, or is damaged: {error}.") from error
    start = f"{TRUNK_OF_WEIGHTS}."
    own = {key.removeprefix(start): value for key, value in held.items() if key.startswith(start)}
    if own and path.with_suffix(".json").is_file():
        return _start_of_weights(path, asked)
    if asked is None:
        raise RecipeError(
            f"model.input_normalization: {path.name} has no description of a run's weights beside it, so the recipe "
            "must say what input its trunk was trained on. Write `input_normalization: imagenet` for torchvision's and "
            "other weights that expect ImageNet's mean subtracted and its standard deviation divided by, "
            "`input_normalization: none` for weights that expect grey values in [0, 1] as they are."
        )
    return own or held, asked


def _start_of_weights(path: Path, asked: InputNormalization | None) -> tuple[dict[str, Tensor], InputNormalization]:
    """The trunk of a run's weights, checked, and what their description says of its input."""
    try:
        weights = load_weights(path, "grader")
        found = model_config_of(weights).input_normalization
    except WeightsError as error:
        raise RecipeError(f"model.init: {error.message}") from error
    if asked not in (None, found):
        raise RecipeError(
            f"model.input_normalization: the recipe says {asked}, but the weights {weights.name} ({path.name}) were "
            f"trained with {found}. Leave it null to take {found}, or start from other weights."
        )
    return weights.part(TRUNK_OF_WEIGHTS), found
