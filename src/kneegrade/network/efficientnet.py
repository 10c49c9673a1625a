"""EfficientNet-Lite0 and Lite2 as feature extractors (trunks) with maps at strides 8, 16 and 32.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019; the Lite variants
have no squeeze-and-excitation, ReLU6 activations, and a stem that is not scaled. Parameters have the names of timm's
`tf_efficientnet_lite*`, without the last convolution and the classifier, so that its checkpoints can be loaded. Padding
is TensorFlow's "same": where the padding is odd, the extra row and column are at the end.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from kneegrade.network.input_normalization import InputNormalization, Level, NormalizedTrunk

STEM_CHANNELS = 32


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution: number of blocks, kernel, stride of the first block, expansion, output channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


ARCHITECTURES: dict[str, tuple[Stage, ...]] = {
    "efficientnet_lite0": (
        Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
    ),
    "efficientnet_lite2": (
        Stage(1, 3, 1, 1, 16), Stage(3, 3, 2, 6, 24), Stage(3, 5, 2, 6, 48), Stage(4, 3, 2, 6, 88),
        Stage(4, 5, 1, 6, 120), Stage(5, 5, 2, 6, 208), Stage(1, 3, 1, 6, 352),
    ),
}  # fmt: skip
STAGES_OF_STRIDE_16 = 5  # blocks.0 … blocks.4
LEVELS = (2, 4, 6)  # stages whose output is a map: strides 8, 16 and 32


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: ceil(size / stride) outputs."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:]]
            input = functional.pad(input, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        return super().forward(input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv:
    padding = kernel // 2 if stride == 1 else 0
    return SameConv(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)


class SeparableBlock(nn.Module):
    """Depthwise convolution and linear projection: the block without expansion."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _conv(channels_in, channels_in, kernel, stride, channels_in)
        self.bn1 = _norm(channels_in)
        self.conv_pw = _conv(channels_in, channels_out, 1)
        self.bn2 = _norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) → (B, channels_out, H/stride, W/stride)."""
        out = functional.relu6(self.bn1(self.conv_dw(x)))
        out = self.bn2(self.conv_pw(out))
        return out + x if self.residual else out  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.conv_pw = _conv(channels_in, width, 1)
        self.bn1 = _norm(width)
        self.conv_dw = _conv(width, width, kernel, stride, width)
        self.bn2 = _norm(width)
        self.conv_pwl = _conv(width, channels_out, 1)
        self.bn3 = _norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) → (B, channels_out, H/stride, W/stride)."""
        out = functional.relu6(self.bn1(self.conv_pw(x)))
        out = functional.relu6(self.bn2(self.conv_dw(out)))
        out = self.bn3(self.conv_pwl(out))
        return out + x if self.residual else out  # type: ignore[no-any-return]


class EfficientNetTrunk(NormalizedTrunk):
    """EfficientNet-Lite up to stride 16 or 32, which returns its maps at strides 8, 16 and 32.

    Args:
        name: "efficientnet_lite0" or "efficientnet_lite2".
        stages: 3 ends at stride 16, 4 at stride 32.
        input_normalization: see `ModelConfig`.

    Attributes:
        levels: the maps that `forward` returns.
        landmark_levels: how many of the maps, from the first, are read at landmarks: those of strides 8 and 16.

    Raises:
        ValueError: another number of stages.
    """

    def __init__(
        self, name: str = "efficientnet_lite0", stages: int = 4, *, input_normalization: InputNormalization = "none"
    ) -> None:
        super().__init__(input_normalization)
        if stages not in (3, 4):
            raise ValueError(f"{name} has 3 or 4 stages (it ends at stride 16 or 32), not {stages}")
        architecture = ARCHITECTURES[name][: STAGES_OF_STRIDE_16 if stages == 3 else None]
        self.conv_stem = _conv(3, STEM_CHANNELS, 3, 2)
        self.bn1 = _norm(STEM_CHANNELS)
        self.blocks = nn.Sequential()
        channels, stride, levels = STEM_CHANNELS, 2, []
        for number, stage in enumerate(architecture):
            self.blocks.append(_make_stage(stage, channels))
            channels, stride = stage.channels, stride * stage.stride
            if number in LEVELS:
                levels.append(Level(channels, stride, stride - 1))  # each "same" stride of 2 adds its input's stride
        self.levels, self.landmark_levels = tuple(levels), 2

    def forward(self, image: Tensor, inside: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the maps of `levels`, (B, C, H/stride, W/stride) each.

        Args:
            image: (B, 1, H, W) grey values in [0, 1].
            inside: (B, 1, H, W) bool, pixels on the film; None: all.
        """
        x = functional.relu6(self.bn1(self.conv_stem(self.normalized(image, inside))))  # (B, 32, H/2, W/2)
        maps = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in LEVELS:
                maps.append(x)
        return tuple(maps)

    def first_stages(self, number: int) -> list[nn.Module]:
        """Return the modules of the stem and of the first `number` stages, for freezing."""
        return [self.conv_stem, self.bn1, *list(self.blocks)[:number]]


def _make_stage(stage: Stage, channels: int) -> nn.Sequential:
    blocks = nn.Sequential()
    for index in range(stage.blocks):
        stride = stage.stride if index == 0 else 1
        if stage.expansion == 1:
            blocks.append(SeparableBlock(channels, stage.channels, stage.kernel, stride))
        else:
            blocks.append(InvertedResidual(channels, stage.channels, stage.kernel, stride, stage.expansion))
        channels = stage.channels
    return blocks
