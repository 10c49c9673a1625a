import itertools
import math

import pytest
import torch

from kneegrade.network import Trunk, load_trunk, pool_at_landmarks

VISIBLE = torch.ones(2, 5, dtype=torch.bool)


def read_by_hand(features, x, y, stride):
    """Bilinear interpolation of one feature map at one point, written out."""
    height, width = features.shape[-2:]
    u, v = min(max(x / stride, 0), width - 1), min(max(y / stride, 0), height - 1)
    left, top = min(math.floor(u), width - 2), min(math.floor(v), height - 2)
    a, b = u - left, v - top
    return (
        features[:, top, left] * (1 - a) * (1 - b) + features[:, top, left + 1] * a * (1 - b)
        + features[:, top + 1, left] * (1 - a) * b + features[:, top + 1, left + 1] * a * b
    )  # fmt: skip


def test_pooling_against_bilinear_interpolation_by_hand():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 7, 6, 9, generator=generator)
    landmarks = torch.rand(2, 5, 2, generator=generator) * torch.tensor([170.0, 120.0]) - 10
    pooled = pool_at_landmarks(features, landmarks, VISIBLE, 16)
    for b, n in itertools.product(range(2), range(5)):
        expected = read_by_hand(features[b], *landmarks[b, n].tolist(), 16)
        torch.testing.assert_close(pooled[b, n], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_is_read_at_x_over_stride_and_clamped_to_the_last_cell(axis):
    ramp = torch.arange(20.0).view(1, 1, *((1, 20) if axis == 0 else (20, 1))).expand(1, 1, 20, 20)
    at = torch.zeros(1, 4, 2)
    at[0, :, axis] = torch.tensor([0.0, 40.0, 304.0, 319.0])
    pooled = pool_at_landmarks(ramp, at, torch.ones(1, 4, dtype=torch.bool), 16)
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor([0.0, 2.5, 19.0, 19.0]))


def test_cell_j_of_the_trunk_is_centred_on_pixel_16j():
    """Centre of mass of |∂ cell / ∂ input| of a trunk with equal positive weights, away from the border."""
    trunk = Trunk("resnet18", 3).eval()
    for parameter in trunk.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    image = torch.rand(1, 1, 480, 480, requires_grad=True)
    trunk(image)[0, 0, 15, 14].backward()
    weight = image.grad[0, 0].abs()
    grid = torch.arange(480.0)
    assert (weight.sum(0) @ grid / weight.sum()).item() == pytest.approx(16 * 14, abs=1.0)
    assert (weight.sum(1) @ grid / weight.sum()).item() == pytest.approx(16 * 15, abs=1.0)


def test_the_features_of_an_invisible_landmark_are_zero():
    visible = VISIBLE.clone()
    visible[0, 3] = False
    pooled = pool_at_landmarks(torch.ones(2, 3, 4, 4), torch.full((2, 5, 2), 20.0), visible, 16)
    assert (pooled[0, 3] == 0).all()
    assert (pooled[1] == 1).all()


def test_the_trunk_loads_a_state_dict_with_torchvisions_names():
    trunk = Trunk("resnet50", 3)
    state = trunk.state_dict()
    for key in ("conv1.weight", "layer1.0.downsample.0.weight", "layer2.3.bn3.running_var", "layer3.5.conv3.weight"):
        assert key in state
    assert trunk(torch.zeros(1, 1, 64, 64)).shape == (1, 1024, 4, 4)
    deeper = {**state, "layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    load_trunk(trunk, deeper)
    del deeper["layer3.5.conv3.weight"]
    with pytest.raises(KeyError, match=r"layer3\.5\.conv3\.weight"):
        load_trunk(trunk, deeper)
