"""ResNet-18/34/50 trunks with torchvision's key names, cut after any stage.

He et al., "Deep residual learning for image recognition", CVPR 2016; the 3×3 convolution of a bottleneck carries the
stride, as in torchvision, so that any of its checkpoints loads by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

InputNormalization = Literal["none", "imagenet"]


@dataclass(frozen=True)
class TrunkPlan:
    """Blocks per stage and kind of block of one ResNet."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


PLANS: dict[str, TrunkPlan] = {
    "resnet18": TrunkPlan((2, 2, 2, 2), bottleneck=False),
    "resnet34": TrunkPlan((3, 4, 6, 3), bottleneck=False),
    "resnet50": TrunkPlan((3, 4, 6, 3), bottleneck=True),
}
WIDTHS = (64, 128, 256, 512)
Channels = tuple[float, float, float]
NORMALIZATIONS: dict[InputNormalization, tuple[Channels, Channels]] = {  # mean and standard deviation per channel
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) → (B, width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, strided 3×3, 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels_in, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) → (B, 4·width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A projection where shape changes, else None (the identity)."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class Trunk(nn.Module):
    """Feature map of a ResNet after stage `stages` (1 … 4).

    Args:
        name: "resnet18", "resnet34" or "resnet50".
        stages: how many residual stages are built; 3 ends at `layer3` with stride 16 (the paper's f).
        input_normalization: what is done to the input's values, see `ModelConfig`. Mean and standard deviation are the
            buffers `input_mean` and `input_std`, (1, 3, 1, 1). They are not part of the state, since the plan that is
            saved beside a state sets them.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self, name: str = "resnet50", stages: int = 3, *, input_normalization: InputNormalization = "none"
    ) -> None:
        super().__init__()
        plan = PLANS[name]
        block: Callable[[int, int, int], nn.Module] = Bottleneck if plan.bottleneck else BasicBlock
        expansion = 4 if plan.bottleneck else 1
        self.input_normalization = input_normalization
        mean, std = NORMALIZATIONS[input_normalization]
        self.register_buffer("input_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("input_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        self.stages = stages
        for stage in range(stages):
            width, stride = WIDTHS[stage], 1 if stage == 0 else 2
            strides = [stride] + [1] * (plan.blocks[stage] - 1)
            layer, channels = _stack(block, channels, width, strides, expansion)
            setattr(self, f"layer{stage + 1}", layer)
        self.channels = channels
        self.stride = 2 ** (stages + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) grey in [0, 1] → (B, channels, H/stride, W/stride).

        The one channel is repeated to the three that checkpoints expect, then normalised as `input_normalization` says.
        """
        x = x.expand(-1, 3, -1, -1)
        if self.input_normalization != "none":  # x - 0 and x / 1 would change no number, but copy the batch
            x = (x - self.input_mean) / self.input_std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x


def _stack(
    block: Callable[[int, int, int], nn.Module], channels: int, width: int, strides: Sequence[int], expansion: int
) -> tuple[nn.Sequential, int]:
    blocks = []
    for stride in strides:
        blocks.append(block(channels, width, stride))
        channels = width * expansion
    return nn.Sequential(*blocks), channels


def load_trunk(trunk: Trunk, state: dict[str, Tensor]) -> None:
    """Load a torchvision-named state into `trunk`; keys of deeper stages and of the classifier are left aside.

    Raises:
        KeyError: when a key that the trunk needs is missing from `state`.
    """
    own = trunk.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise KeyError(f"the checkpoint lacks {len(missing)} of the trunk's tensors, the first is {missing[0]!r}")
    trunk.load_state_dict({key: state[key].to(torch.float32) for key in own if key in state}, strict=False)
