"""EfficientNet-Lite trunks: maps, the pixel on which a cell is centred, checkpoints, and what lies outside the film."""

import pytest
import torch

from kneegrade.network import EfficientNetTrunk, GradingNetwork, ModelConfig, load_trunk
from kneegrade.network.efficientnet import ARCHITECTURES
from kneegrade.schema import TARGETS
from kneegrade.weights.inference import fuse_batchnorm

CONFIG = ModelConfig(
    "efficientnet_lite0", "keypoints+global", 4, reduce=8, roi_px=96, input_normalization="per_image", mask_outside=True
)


def batch(size=3):
    generator = torch.Generator().manual_seed(3)
    roi = torch.rand(size, 1, 96, 96, generator=generator)
    points = torch.rand(size, 74, 2, generator=generator) * 95
    inside = torch.ones(size, 1, 96, 96, dtype=torch.bool)
    inside[:, :, :20], inside[:, :, :, 80:] = False, False
    return roi * inside, points, torch.rand(size, 74, generator=generator) < 0.8, inside


def network(config=CONFIG):
    torch.manual_seed(1)
    made = GradingNetwork(config)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.mark.parametrize(
    ("name", "channels"), [("efficientnet_lite0", (40, 112, 320)), ("efficientnet_lite2", (48, 120, 352))]
)
def test_maps_have_the_published_channels_and_strides(name, channels):
    trunk = EfficientNetTrunk(name).eval()
    maps = trunk(torch.rand(1, 1, 96, 64))
    for features, level, width, stride in zip(maps, trunk.levels, channels, (8, 16, 32), strict=True):
        assert (features.shape[1:], level.channels, level.stride) == (
            (width, 96 // stride, 64 // stride),
            width,
            stride,
        )


def test_number_of_parameters_is_that_of_the_published_lite0_without_head():
    # 4,652,008 published, less the last convolution (320·1280), its normalisation (2·1280) and the classifier
    expected = 4_652_008 - 320 * 1280 - 2 * 1280 - (1280 * 1000 + 1000)
    assert sum(p.numel() for p in EfficientNetTrunk("efficientnet_lite0").parameters()) == expected


def test_a_cell_is_centred_where_its_level_says():
    trunk = EfficientNetTrunk("efficientnet_lite0").eval()
    for module in trunk.modules():  # a positive linear network, whose gradient is its receptive field
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(1 / module.weight[0].numel())
    x = torch.full((1, 1, 512, 512), 1e-6, dtype=torch.float64, requires_grad=True)  # far below ReLU6's 6
    for index, level in enumerate(trunk.levels):
        cell = 256 // level.stride
        (gradient,) = torch.autograd.grad(trunk.double()(x)[index][0, 0, cell, cell], x)
        profile = gradient[0, 0].sum(0)
        centre = float((profile * torch.arange(512)).sum() / profile.sum())
        assert centre == pytest.approx(level.offset + level.stride * cell, abs=0.5), (
            level
        )  # the border cuts wide fields


def test_a_checkpoint_with_further_layers_is_loaded_and_a_missing_tensor_is_named():
    trunk = EfficientNetTrunk("efficientnet_lite0", 3)
    state = {
        key: torch.full_like(value, 2) for key, value in EfficientNetTrunk("efficientnet_lite0").state_dict().items()
    }
    load_trunk(trunk, {**state, "conv_head.weight": torch.zeros(1)})
    assert all((value == 2).all() for key, value in trunk.state_dict().items() if "num_batches" not in key)
    del state["blocks.2.1.conv_pwl.weight"]
    with pytest.raises(KeyError, match=r"blocks\.2\.1\.conv_pwl\.weight"):
        load_trunk(trunk, state)


def test_grey_values_outside_the_film_do_not_change_the_logits():
    made, (roi, points, visible, inside) = network(), batch()
    expected = made(roi, points, visible, inside).logits
    found = made(roi.where(inside, 0.7), points, visible, inside).logits
    for target in TARGETS:
        torch.testing.assert_close(found[target.name], expected[target.name], rtol=0, atol=1e-5)
    changed = made(roi.where(~inside, 0.7), points, visible, inside).logits["kl"]
    assert (changed - expected["kl"]).abs().max() > 1e-3


def test_logits_do_not_change_with_brightness_and_contrast():
    made, (roi, points, visible, inside) = network(), batch()
    expected = made(roi, points, visible, inside).logits["kl"]
    found = made((roi * 0.5 + 0.2) * inside, points, visible, inside).logits["kl"]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_batched_logits_equal_those_of_single_knees():
    made, parts = network(), batch()
    together = made(*parts).logits["kl"]
    alone = torch.cat([made(*(part[i : i + 1] for part in parts)).logits["kl"] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_evidence_adds_up_to_the_centred_logits(assert_evidence_is_exact):
    made, parts = network(), batch()
    made.feature_mean.normal_()
    assert_evidence_is_exact(made, made(*parts))


def test_fused_batch_normalisation_gives_the_same_maps():
    trunk, (roi, _, _, inside) = network().trunk, batch()
    for fused, plain in zip(fuse_batchnorm(trunk)(roi, inside), trunk(roi, inside), strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-4)


def test_gradients_stop_at_frozen_stages():
    trunk = EfficientNetTrunk("efficientnet_lite0")
    for module in trunk.first_stages(2):
        module.requires_grad_(False)
    frozen = {name.split(".")[0] + name.split(".")[1] for name, p in trunk.named_parameters() if not p.requires_grad}
    assert {"blocks0", "blocks1"} <= frozen
    assert "blocks2" not in frozen


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"trunk": "vgg"}, "vgg"), ({"trunk": "efficientnet_lite0", "pooling": "keypoints+global"}, "needs reduce")],
)
def test_a_configuration_that_cannot_be_built_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)
    assert set(ARCHITECTURES) == {"efficientnet_lite0", "efficientnet_lite2"}
