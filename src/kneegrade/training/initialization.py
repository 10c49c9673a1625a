"""The initial weights of a grading network: random, by the recipe's seed, except for a trunk from a file.

The weights of a trunk belong to the input normalization that they were trained with. Therefore `input_normalization` is

- random initial weights: "none", unless the recipe sets it;
- `weights.safetensors` of a run: that of the description beside it; a recipe that sets another one is an error;
- a file with only the tensors of a trunk: that of the recipe; a recipe that does not set it is an error.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kneegrade.errors import RecipeError, WeightsError
from kneegrade.network import GradingNetwork, load_trunk, model_config_of
from kneegrade.network.input_normalization import InputNormalization
from kneegrade.training.config import Model
from kneegrade.weights import load_weights

Network = TypeVar("Network", bound=nn.Module)
TRUNK_PREFIX = "network.trunk"  # of a trunk's tensors in the weights of a run


def build_network(model: Model, seed: int) -> GradingNetwork:
    """The network of a recipe with its initial weights; parts that are not in the file are random.

    Args:
        model: section of the recipe.
        seed: of the random weights.

    Raises:
        RecipeError: the file is missing or damaged or does not contain this trunk, or `input_normalization` is missing
            or contradicts the description of the weights.
    """
    if model.init is None:
        return _random_network(model, model.input_normalization or "none", seed)
    state, input_normalization = _load_initial_trunk(model.init, model.input_normalization)
    network = _random_network(model, input_normalization, seed)
    try:
        load_trunk(network.trunk, state)
    except (KeyError, RuntimeError) as error:
        raise RecipeError(
            f"model.init: {model.init.name} does not contain a {model.trunk} of {model.stages} stages: {error}."
        ) from error
    return network


def _random_network(model: Model, input_normalization: InputNormalization, seed: int) -> GradingNetwork:
    return seeded(partial(GradingNetwork, model.config_with(input_normalization)), seed)


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """The network that `build` makes, with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _load_initial_trunk(
    path: Path, requested: InputNormalization | None
) -> tuple[dict[str, Tensor], InputNormalization]:
    """The tensors of a trunk by the names of torchvision (ResNet) or timm (EfficientNet-Lite), and its normalization.

    Args:
        path: safetensors file.
        requested: `input_normalization` of the recipe.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise RecipeError(f"model.init: there is no file {path}.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise RecipeError(f"model.init: {path.name} is not a safetensors file, or is damaged: {error}.") from error
    prefix = f"{TRUNK_PREFIX}."
    trunk = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if trunk and path.with_suffix(".json").is_file():
        return _load_trunk_of_run(path, requested)
    if requested is None:
        raise RecipeError(
            f"model.input_normalization: {path.name} has no description of a run's weights beside it, so the recipe "
            "must state the input that its trunk was trained on. Write `input_normalization: imagenet` for weights "
            "that expect ImageNet's mean subtracted and its standard deviation divided by, such as torchvision's, "
            "`input_normalization: symmetric` for weights that expect (x - 0.5) / 0.5, such as TensorFlow's, "
            "or `input_normalization: none` for weights that expect grey values in [0, 1] without normalization."
        )
    return trunk or tensors, requested


def _load_trunk_of_run(
    path: Path, requested: InputNormalization | None
) -> tuple[dict[str, Tensor], InputNormalization]:
    """The trunk of a run's weights, whose checksum is verified, and the input normalization in their description."""
    try:
        weights = load_weights(path, "grader")
        trained = model_config_of(weights).input_normalization
    except WeightsError as error:
        raise RecipeError(f"model.init: {error.message}") from error
    if requested not in (None, trained):
        raise RecipeError(
            f"model.input_normalization: the recipe requests {requested}, but the weights {weights.name} ({path.name}) "
            f"were trained with {trained}. Leave it null to use {trained}, or start from other weights."
        )
    return weights.part(TRUNK_PREFIX), trained
