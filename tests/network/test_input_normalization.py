"""Normalisation of grey values before the first convolution of the trunk."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from kneegrade.errors import WeightsError
from kneegrade.network import GradingNetwork, ModelConfig, Trunk, model_config_of
from kneegrade.weights import Weights
from kneegrade.weights.inference import fuse_batchnorm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights, in its documentation


def grey(number=2, side=64):
    return torch.rand(number, 1, side, side, generator=torch.Generator().manual_seed(4))


def random_trunk(name="resnet18", **settings):
    """A trunk in evaluation mode with random batch normalisations."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        trunk = Trunk(name, 3, **settings)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return trunk.eval()


def stages(trunk, channels):
    """Feature map of the trunk for an input (B, 3, H, W) that is already normalised."""
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(channels))))
    for stage in range(trunk.stages):
        x = getattr(trunk, f"layer{stage + 1}")(x)
    return x


@torch.no_grad()
def test_imagenet_normalisation_subtracts_the_mean_and_divides_by_the_standard_deviation():
    trunk, seen = random_trunk(input_normalization="imagenet"), []
    trunk.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = grey()
    features = trunk(image)
    plain = image.numpy()[:, 0].astype(np.float64)
    expected = np.stack([(plain - mean) / std for mean, std in zip(MEAN, STD, strict=True)], axis=1)
    assert seen[0].dtype == torch.float32
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=0, atol=1e-6)
    wanted = stages(trunk.double(), torch.from_numpy(expected))
    torch.testing.assert_close(features.double(), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_normalisation_the_grey_channel_is_repeated_bit_for_bit(layout):
    trunk, image = random_trunk(input_normalization="none").to(memory_format=layout), grey()
    assert torch.equal(trunk(image), stages(trunk, image.expand(-1, 3, -1, -1)))
    assert torch.equal(random_trunk().to(memory_format=layout)(image), trunk(image))


def test_mean_and_deviation_are_buffers_outside_the_state_dict_that_move_with_the_network():
    network = GradingNetwork(ModelConfig("resnet18", roi_px=64, input_normalization="imagenet"))
    plain = GradingNetwork(ModelConfig("resnet18", roi_px=64))
    assert network.state_dict().keys() == plain.state_dict().keys()
    buffers = dict(network.named_buffers())
    assert torch.equal(buffers["trunk.input_mean"].flatten(), torch.tensor(MEAN))
    assert torch.equal(buffers["trunk.input_std"].flatten(), torch.tensor(STD))
    moved = dict(network.to("meta", torch.float64).named_buffers())
    for name in ("trunk.input_mean", "trunk.input_std"):
        assert (moved[name].device.type, moved[name].dtype) == ("meta", torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_fusing_batch_normalisation_keeps_the_normalisation_of_the_input(name):
    trunk = random_trunk(name, input_normalization="imagenet")
    fused = fuse_batchnorm(trunk)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(grey()), trunk(grey()), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(fused(grey()), fuse_batchnorm(random_trunk(name))(grey()), rtol=1e-2, atol=1e-2)


def weights_with(model):
    """Weights without tensors whose description has this model."""
    return Weights("w", "", {}, {"name": "w", "kind": "grader", "sha256": "", "model": model})


def test_a_description_without_input_normalization_means_none():
    config = ModelConfig("resnet18", input_normalization="imagenet")
    assert model_config_of(weights_with(asdict(config))) == config
    older = {key: value for key, value in asdict(config).items() if key != "input_normalization"}
    assert model_config_of(weights_with(older)).input_normalization == "none"


@pytest.mark.parametrize("found", ["clip", None])
def test_an_unknown_input_normalization_raises_a_weights_error(found):
    with pytest.raises(WeightsError, match="do not fit"):
        model_config_of(weights_with({**asdict(ModelConfig()), "input_normalization": found}))
