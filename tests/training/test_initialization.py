"""Where a network starts, and what its trunk then takes its input to be."""

from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from kneegrade.errors import RecipeError
from kneegrade.network import GradingNetwork, ModelConfig, Trunk
from kneegrade.training.config import Model
from kneegrade.training.initialization import build_network
from kneegrade.weights import save_weights

SMALL = {"trunk": "resnet18", "stages": 1, "reduce": 8, "roi_px": 64}


@pytest.fixture
def plain(tmp_path):
    """A file of a trunk's tensors by torchvision's names."""
    path = tmp_path / "resnet18.safetensors"
    save_file(Trunk("resnet18", 1).state_dict(), path)
    return path


def run_weights(path, *, older=False, **plan):
    """Weights as a run leaves them; `older`: of a version whose descriptions say nothing of the input."""
    made = ModelConfig("resnet18", stages=1, reduce=8, roi_px=64, **plan)
    model = asdict(made)
    if older:
        del model["input_normalization"]
    tensors = {f"network.{key}": value for key, value in GradingNetwork(made).state_dict().items()}
    save_weights(path, tensors, {"name": "before", "kind": "grader", "model": model})
    return path


@pytest.mark.parametrize(("asked", "expected"), [(None, "none"), ("none", "none"), ("imagenet", "imagenet")])
def test_a_random_start_is_not_normalised_unless_asked(asked, expected):
    network = build_network(Model(**SMALL, input_normalization=asked), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == expected


def test_a_plain_file_of_trunk_tensors_needs_a_statement(plain):
    with pytest.raises(RecipeError) as caught:
        build_network(Model(**SMALL, init=plain), 0)
    for part in ("resnet18.safetensors", "input_normalization: imagenet", "input_normalization: none"):
        assert part in caught.value.message


@pytest.mark.parametrize("asked", ["none", "imagenet"])
def test_a_plain_file_is_taken_as_the_recipe_says(plain, asked):
    network = build_network(Model(**SMALL, init=plain, input_normalization=asked), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == asked
    expected = Trunk("resnet18", 1, input_normalization=asked)
    expected.load_state_dict(network.trunk.state_dict())
    picture = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval().trunk(picture), expected.eval()(picture))


def test_a_description_of_something_else_beside_a_plain_file_is_not_looked_at(plain):
    plain.with_suffix(".json").write_text('{"architectures": ["ResNet"]}')
    network = build_network(Model(**SMALL, init=plain, input_normalization="imagenet"), 0)
    assert network.config.input_normalization == "imagenet"


@pytest.mark.parametrize("asked", [None, "same"])
@pytest.mark.parametrize("found", ["none", "imagenet"])
def test_a_runs_weights_say_their_convention(tmp_path, found, asked):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization=found)
    network = build_network(Model(**SMALL, init=path, input_normalization=asked and found), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == found


def test_a_runs_weights_of_an_older_version_mean_none(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors", older=True)
    assert build_network(Model(**SMALL, init=path), 0).config.input_normalization == "none"
    with pytest.raises(RecipeError, match=r"imagenet.*none"):
        build_network(Model(**SMALL, init=path, input_normalization="imagenet"), 0)


@pytest.mark.parametrize(("asked", "found"), [("none", "imagenet"), ("imagenet", "none")])
def test_a_recipe_that_contradicts_a_runs_weights_is_told_both(tmp_path, asked, found):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization=found)
    with pytest.raises(RecipeError, match=rf"input_normalization.*{asked}.*before.*{found}"):
        build_network(Model(**SMALL, init=path, input_normalization=asked), 0)


def test_damaged_weights_of_a_run_are_no_start(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"model\.init.*damaged"):
        build_network(Model(**SMALL, init=path), 0)


def test_a_runs_weights_without_their_description_need_a_statement(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization="imagenet")
    path.with_suffix(".json").unlink()
    with pytest.raises(RecipeError, match="input_normalization: imagenet"):
        build_network(Model(**SMALL, init=path), 0)
    network = build_network(Model(**SMALL, init=path, input_normalization="imagenet"), 0)
    assert network.config.input_normalization == "imagenet"


def test_a_convention_that_is_not_known_is_no_recipe():
    with pytest.raises(ValueError, match="input_normalization"):
        Model(input_normalization="clip")
