"""ResNet-18, 34 and 50 as feature extractors (trunks) that end after any stage.

He et al., "Deep residual learning for image recognition", CVPR 2016. As in torchvision, the 3×3 convolution of a
bottleneck has the stride. Parameters have torchvision's names, so that its checkpoints can be loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.network.input_normalization import InputNormalization, Level, NormalizedTrunk


@dataclass(frozen=True)
class Architecture:
    """Number of blocks per stage and kind of block of a ResNet."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
}
STAGE_WIDTHS = (64, 128, 256, 512)  # channels inside the blocks of each stage


class BasicBlock(nn.Module):
    """Residual block of two 3×3 convolutions."""

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
    """Residual block of a 1×1, a strided 3×3 and a 1×1 convolution."""

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
    """Return a projection if the block changes the shape of its input, else None (the identity)."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class Trunk(NormalizedTrunk):
    """ResNet up to a given stage, which returns its feature map.

    Args:
        name: "resnet18", "resnet34" or "resnet50".
        stages: number of residual stages, 1 … 4; 3 ends at `layer3` with stride 16 (f in the paper).
        input_normalization: see `ModelConfig`.

    Attributes:
        levels: the one map that `forward` returns: C channels, 2^(stages + 1) pixels of the input per cell.
        landmark_levels: how many maps are read at landmarks: 1.
    """

    def __init__(
        self, name: str = "resnet50", stages: int = 3, *, input_normalization: InputNormalization = "none"
    ) -> None:
        super().__init__(input_normalization)
        architecture = ARCHITECTURES[name]
        block: type[BasicBlock | Bottleneck] = Bottleneck if architecture.bottleneck else BasicBlock
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        self.stages = stages
        for stage in range(stages):
            strides = [1 if stage == 0 else 2] + [1] * (architecture.blocks[stage] - 1)
            layer, channels = _make_stage(block, channels, STAGE_WIDTHS[stage], strides)
            setattr(self, f"layer{stage + 1}", layer)
        self.levels, self.landmark_levels = (Level(channels, 2 ** (stages + 1), 0),), 1

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the feature map, (B, C, H/stride, W/stride).

        Args:
            image: (B, 1, H, W) grey values in [0, 1].
            inside: (B, 1, H, W) bool, pixels on the film; None: all.
        """
        x: Tensor = self.normalized(image, inside)  # (B, 3, H, W)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, H/4, W/4)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x

    def first_stages(self, number: int) -> list[nn.Module]:
        """Return the modules of the stem and of the first `number` stages, for freezing."""
        return [self.conv1, self.bn1, *(getattr(self, f"layer{n}") for n in range(1, number + 1))]


def _make_stage(
    block: type[BasicBlock | Bottleneck], channels: int, width: int, strides: Sequence[int]
) -> tuple[nn.Sequential, int]:
    """Return a stage with one block per stride, and its number of output channels."""
    blocks = []
    for stride in strides:
        blocks.append(block(channels, width, stride))
        channels = width * block.expansion
    return nn.Sequential(*blocks), channels


def load_trunk(trunk: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the tensors of a checkpoint by name; tensors of further stages and of the classifier are ignored.

    Raises:
        KeyError: a tensor of the trunk is missing from `state`.
    """
    own = trunk.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise KeyError(f"the checkpoint lacks {len(missing)} tensors of the trunk, the first one is {missing[0]!r}")
    trunk.load_state_dict({key: state[key].to(torch.float32) for key in own if key in state}, strict=False)
