import numpy as np
import pytest
import torch
from torch.nn import functional

from kneegrade.anatomy.landmark_scheme import COMPARTMENTS
from kneegrade.network import GradingNetwork, ModelConfig
from kneegrade.network.model import ordinal_log_probabilities
from kneegrade.network.pooling import siamese_patches
from kneegrade.network.resnet import Trunk
from kneegrade.schema import TARGETS
from kneegrade.weights.inference import fuse_batchnorm

CONFIGS = {
    "paper": ModelConfig("resnet18", roi_px=96),
    "reduced": ModelConfig("resnet18", reduce=8, roi_px=96),
    "global": ModelConfig("resnet18", "global", 4, roi_px=96),
    "global after layer3": ModelConfig("resnet18", "global", 3, roi_px=96),
    "both": ModelConfig("resnet18", "keypoints+global", reduce=8, roi_px=96),
    "siamese": ModelConfig("resnet18", "siamese", 4, roi_px=96),
    "ordinal": ModelConfig("resnet18", heads="ordinal", roi_px=96),
    "regression": ModelConfig("resnet18", regression=True, roi_px=96),
}


def build(config):
    torch.manual_seed(0)
    network = GradingNetwork(config).eval()
    network.feature_mean.normal_()
    return network


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def network(request):
    return build(request.param)


def knees(number=3):
    generator = torch.Generator().manual_seed(2)
    visible = torch.rand(number, 74, generator=generator) > 0.2
    points = torch.rand(number, 74, 2, generator=generator) * 95
    return torch.rand(number, 1, 96, 96, generator=generator), points, visible


@torch.no_grad()
def test_contributions_and_constant_sum_to_the_logit(network):
    """For every pooling and head: class-centred logits of softmax heads, conditional logits of ordinal heads."""
    output = network(*knees())
    attribution = network.attribute(output.pooled)
    for target in TARGETS:
        total = attribution.contributions[target.name].sum(1) + attribution.constant[target.name]
        if network.config.heads == "ordinal":
            total = ordinal_log_probabilities({target.name: total})[target.name]
            expected = output.logits[target.name]
        else:
            expected = output.logits[target.name] - output.logits[target.name].mean(1, keepdim=True)
        assert (total - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_logits_of_a_batch_equal_those_of_each_knee_alone(network):
    roi, points, visible = knees()
    together = network(roi, points, visible)
    for i in range(3):
        alone = network(roi[i : i + 1], points[i : i + 1], visible[i : i + 1])
        for name, logits in alone.logits.items():
            torch.testing.assert_close(together.logits[name][i : i + 1], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["paper", "reduced", "both", "ordinal"])
@torch.no_grad()
def test_an_osteophyte_head_reads_only_the_points_of_its_compartment(name):
    network = build(CONFIGS[name])
    output = network(*knees())
    pooled = output.pooled.clone()
    lateral_femur = list(COMPARTMENTS["FL"])
    others = [p for p in range(74) if p not in lateral_femur]
    pooled[:, others] = 7.0
    changed = network.classify(pooled)
    torch.testing.assert_close(changed["osteophyte_femur_lateral"], output.logits["osteophyte_femur_lateral"])
    assert not torch.allclose(changed["osteophyte_femur_medial"], output.logits["osteophyte_femur_medial"])
    assert not torch.allclose(changed["kl"], output.logits["kl"])


@pytest.mark.parametrize("name", ["global", "siamese"])
@torch.no_grad()
def test_networks_without_keypoints_ignore_landmarks(name):
    network = build(CONFIGS[name])
    roi, points, visible = knees()
    first, second = network(roi, points, visible), network(roi, points.flip(0) + 3, ~visible)
    for grade, logits in first.logits.items():
        torch.testing.assert_close(second.logits[grade], logits, rtol=0, atol=0)


@torch.no_grad()
def test_global_pooling_is_the_mean_of_the_feature_map():
    network = build(CONFIGS["global"])
    roi, points, visible = knees()
    expected = functional.adaptive_avg_pool2d(network.trunk(roi), 1).flatten(1)
    torch.testing.assert_close(network(roi, points, visible).pooled[:, 0], expected)


@torch.no_grad()
def test_siamese_features_are_swapped_when_the_knee_is_mirrored():
    """Both patches share their weights, and the medial one is mirrored."""
    network = build(CONFIGS["siamese"])
    roi, points, visible = knees()
    straight, mirrored = network(roi, points, visible).pooled, network(roi.flip(-1), points, visible).pooled
    torch.testing.assert_close(mirrored, straight.flip(1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(straight[:, 0], straight[:, 1])


def test_siamese_patches_are_squares_in_the_middle_of_each_half():
    roi = torch.arange(64.0).reshape(1, 1, 8, 8)
    lateral, medial = siamese_patches(roi)
    assert lateral[0].tolist() == roi[0, 0, 2:6, :4].tolist()
    assert medial[0].tolist() == roi[0, 0, 2:6, 4:].flip(1).tolist()


def test_ordinal_log_probabilities_sum_to_one_and_give_the_loss_of_corn():
    """Cross entropy with them is the sum of the binary losses "above k, given above k - 1" up to the true grade."""
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 4)) * 3).float()
    logits = ordinal_log_probabilities({"kl": z})["kl"]
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(6))
    for grade in range(5):
        truth = torch.full((6,), grade)
        conditional = z[:, : grade + 1] if grade < 4 else z
        above = torch.tensor([1.0] * grade + [0.0])[: conditional.shape[1]].expand_as(conditional)
        expected = functional.binary_cross_entropy_with_logits(conditional, above, reduction="none").sum(1)
        torch.testing.assert_close(functional.cross_entropy(logits, truth, reduction="none"), expected)


def test_regression_heads_predict_one_number_per_grade():
    numbers = build(CONFIGS["regression"])(*knees()).numbers
    assert {name: tuple(value.shape) for name, value in numbers.items()} == {t.name: (3,) for t in TARGETS}
    assert build(CONFIGS["paper"])(*knees()).numbers == {}


@pytest.mark.parametrize("trunk", ["resnet18", "resnet50"])
def test_fusing_batch_normalisation_keeps_the_feature_map(trunk):
    generator = torch.Generator().manual_seed(3)
    plain = Trunk(trunk, 3)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    plain.eval()
    fused = fuse_batchnorm(plain)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    image = torch.rand(2, 1, 64, 64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(fused(image), plain(image), rtol=1e-3, atol=1e-4)


def test_a_network_optimized_for_inference_has_nearly_the_same_logits_and_exact_attribution():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GradingNetwork(ModelConfig(trunk="resnet18", pooling="keypoints+global", reduce=8, roi_px=64)).eval()
    roi, points = torch.rand(2, 1, 64, 64), torch.rand(2, 74, 2) * 63
    visible = torch.ones(2, 74, dtype=torch.bool)
    with torch.no_grad():
        before = network(roi, points, visible).logits
        output = network.optimized_for_inference()(roi, points, visible)
        attribution = network.attribute(output.pooled)
    for name, logits in output.logits.items():
        torch.testing.assert_close(logits, before[name], rtol=0.05, atol=0.05)
        total = attribution.contributions[name].sum(1) + attribution.constant[name]
        torch.testing.assert_close(total, logits - logits.mean(1, keepdim=True), rtol=1e-4, atol=1e-4)
