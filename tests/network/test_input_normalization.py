"""What a trunk does to grey values before its first convolution."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from kneegrade.errors import WeightsError
from kneegrade.network import GradingNetwork, ModelConfig, Trunk, load_network, model_config_of
from kneegrade.weights import Weights, load_weights, shipped_path
from kneegrade.weights.fusion import fuse_batchnorm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights, in its documentation


def grey(number=2, side=64):
    return torch.rand(number, 1, side, side, generator=torch.Generator().manual_seed(4))


def random_trunk(name="resnet18", **settings):
    """A trunk in evaluation mode whose batch normalisations differ from the identity."""
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
    """The feature map of (B, 3, H, W) channels, as they are, after the trunk's last stage."""
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(channels))))
    for stage in range(trunk.stages):
        x = getattr(trunk, f"layer{stage + 1}")(x)
    return x


@torch.no_grad()
def test_imagenet_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel():
    trunk, seen = random_trunk(input_normalization="imagenet"), []
    trunk.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    picture = grey()
    features = trunk(picture)
    plain = picture.numpy()[:, 0].astype(np.float64)
    expected = np.stack([(plain - mean) / std for mean, std in zip(MEAN, STD, strict=True)], axis=1)
    assert seen[0].dtype == torch.float32
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=0, atol=1e-6)
    wanted = stages(trunk.double(), torch.from_numpy(expected))
    torch.testing.assert_close(features.double(), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_none_repeats_the_grey_channel_bit_for_bit(layout):
    trunk, picture = random_trunk(input_normalization="none").to(memory_format=layout), grey()
    assert torch.equal(trunk(picture), stages(trunk, picture.expand(-1, 3, -1, -1)))
    assert torch.equal(random_trunk().to(memory_format=layout)(picture), trunk(picture))


def test_the_convention_is_in_buffers_that_no_file_holds_and_that_move_with_the_network():
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
def test_folding_batch_normalisations_keeps_the_normalisation_of_the_input(name):
    trunk = random_trunk(name, input_normalization="imagenet")
    lean = fuse_batchnorm(trunk)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lean.modules())
    torch.testing.assert_close(lean(grey()), trunk(grey()), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(lean(grey()), fuse_batchnorm(random_trunk(name))(grey()), rtol=1e-2, atol=1e-2)


def described(model):
    return Weights("w", "", {}, {"name": "w", "kind": "grader", "sha256": "", "model": model})


def test_a_description_says_the_convention_and_an_older_one_means_none():
    plan = ModelConfig("resnet18", input_normalization="imagenet")
    assert model_config_of(described(asdict(plan))) == plan
    older = {key: value for key, value in asdict(plan).items() if key != "input_normalization"}
    assert model_config_of(described(older)).input_normalization == "none"


@pytest.mark.parametrize("found", ["clip", None])
def test_a_convention_that_is_not_known_is_refused(found):
    with pytest.raises(WeightsError, match="do not fit"):
        model_config_of(described({**asdict(ModelConfig()), "input_normalization": found}))


@torch.no_grad()
def test_the_shipped_weights_give_the_logits_that_they_gave_before_there_was_a_convention():
    held = load_weights(shipped_path("grader"), "grader")
    assert "input_normalization" not in held.description["model"]
    network = load_network(held)
    assert network.config.input_normalization == "none"
    ramp, along = torch.arange(96.0) / 95, torch.arange(74.0) * 95 / 73
    product = ramp.outer(ramp)
    roi = torch.stack([product, (product * 40).sin().abs()]).unsqueeze(1)
    points = torch.stack([along, 95 - along], 1).expand(2, -1, -1)
    visible = torch.ones(2, 74, dtype=torch.bool)
    logits = network(roi, points, visible).logits
    before = {
        "kl": [[-0.0977, -1.0028, 0.1887, -0.4284, -4.7169], [-10.2939, -17.4290, -5.7688, -4.6870, 3.6963]],
        "jsn_medial": [[-0.2635, 0.2376, -1.3514, -5.7112], [2.5165, -5.7644, -7.4745, -5.2996]],
    }
    for name, expected in before.items():
        torch.testing.assert_close(logits[name], torch.tensor(expected), rtol=0, atol=2e-3)
    network._features = lambda picture: stages(network.trunk, picture.expand(-1, 3, -1, -1))
    for name, expected in network(roi, points, visible).logits.items():
        assert torch.equal(logits[name], expected), name
