"""Initial weights of a network and the input normalization that belongs to them."""

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


def run_weights(path, *, older=False, **config):
    """Weights as a run writes them; `older`: of a version whose descriptions have no `input_normalization`."""
    model_config = ModelConfig("resnet18", stages=1, reduce=8, roi_px=64, **config)
    model = asdict(model_config)
    if older:
        del model["input_normalization"]
    tensors = {f"network.{key}": value for key, value in GradingNetwork(model_config).state_dict().items()}
    save_weights(path, tensors, {"name": "before", "kind": "grader", "model": model})
    return path


@pytest.mark.parametrize(("requested", "expected"), [(None, "none"), ("none", "none"), ("imagenet", "imagenet")])
def test_random_weights_have_no_normalization_unless_requested(requested, expected):
    network = build_network(Model(**SMALL, input_normalization=requested), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == expected


def test_a_file_of_trunk_tensors_requires_input_normalization(plain):
    with pytest.raises(RecipeError) as caught:
        build_network(Model(**SMALL, init=plain), 0)
    for part in ("resnet18.safetensors", "input_normalization: imagenet", "input_normalization: none"):
        assert part in caught.value.message


@pytest.mark.parametrize("requested", ["none", "imagenet"])
def test_a_file_of_trunk_tensors_has_the_normalization_of_the_recipe(plain, requested):
    network = build_network(Model(**SMALL, init=plain, input_normalization=requested), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == requested
    expected = Trunk("resnet18", 1, input_normalization=requested)
    expected.load_state_dict(network.trunk.state_dict())
    picture = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.eval().trunk(picture), expected.eval()(picture))


def test_an_unrelated_description_beside_a_file_of_trunk_tensors_is_ignored(plain):
    plain.with_suffix(".json").write_text('{"architectures": ["ResNet"]}')
    network = build_network(Model(**SMALL, init=plain, input_normalization="imagenet"), 0)
    assert network.config.input_normalization == "imagenet"


@pytest.mark.parametrize("requested", [None, "same"])
@pytest.mark.parametrize("trained", ["none", "imagenet"])
def test_weights_of_a_run_state_their_normalization(tmp_path, trained, requested):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization=trained)
    network = build_network(Model(**SMALL, init=path, input_normalization=requested and trained), 0)
    assert network.config.input_normalization == network.trunk.input_normalization == trained


def test_weights_of_an_older_version_have_no_normalization(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors", older=True)
    assert build_network(Model(**SMALL, init=path), 0).config.input_normalization == "none"
    with pytest.raises(RecipeError, match=r"imagenet.*none"):
        build_network(Model(**SMALL, init=path, input_normalization="imagenet"), 0)


@pytest.mark.parametrize(("requested", "trained"), [("none", "imagenet"), ("imagenet", "none")])
def test_a_recipe_that_contradicts_the_weights_of_a_run_is_refused(tmp_path, requested, trained):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization=trained)
    with pytest.raises(RecipeError, match=rf"input_normalization.*{requested}.*before.*{trained}"):
        build_network(Model(**SMALL, init=path, input_normalization=requested), 0)


def test_damaged_weights_of_a_run_are_refused(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"model\.init.*damaged"):
        build_network(Model(**SMALL, init=path), 0)


def test_weights_of_a_run_without_description_require_input_normalization(tmp_path):
    path = run_weights(tmp_path / "weights.safetensors", input_normalization="imagenet")
    path.with_suffix(".json").unlink()
    with pytest.raises(RecipeError, match="input_normalization: imagenet"):
        build_network(Model(**SMALL, init=path), 0)
    network = build_network(Model(**SMALL, init=path, input_normalization="imagenet"), 0)
    assert network.config.input_normalization == "imagenet"


def test_an_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="input_normalization"):
        Model(input_normalization="clip")
