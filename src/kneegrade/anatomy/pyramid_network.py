"""`PyramidNetwork`: the architecture of the three networks of the landmark detector.

It returns maps at a fine stride and one number per image. `knee_localizer` and `landmark_networks` say what these are.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.weights.compute import Compute

FINE_CHANNELS = (32, 48, 96, 160, 224)  # at strides 2, 4, 8, 16, 32
COARSE_CHANNELS = (24, 36, 64, 104, 144)  # sufficient for localisation and coarse landmarks
PYRAMID_CHANNELS = 64


class Block(nn.Module):
    """Residual block of two 3×3 convolutions."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.skip: nn.Module = nn.Identity() if stride == 1 else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) → (B, channels, H/stride, W/stride)."""
        out = functional.relu(self.norm1(self.first(x)))
        return functional.relu(self.norm2(self.second(out)) + self.skip(x))


class PyramidNetwork(nn.Module):
    """Feature pyramid network that returns maps at a fine stride and one number per image.

    Args:
        maps: number of output maps.
        stride: 4 or 8, pixels of the input per cell of the maps; cell j is centred on pixel stride·j.
        channels: at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, maps: int, stride: int, channels: tuple[int, ...] = FINE_CHANNELS) -> None:
        super().__init__()
        self.stride = stride
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels[0], 5, 2, 2, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(nn.Sequential(Block(a, b, 2), Block(b, b, 1)) for a, b in pairwise(channels))
        levels = 4 if stride == 4 else 3
        self.lateral = nn.ModuleList(nn.Conv2d(c, PYRAMID_CHANNELS, 1) for c in channels[-levels:])
        self.smooth = Block(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 1)
        self.maps = nn.Conv2d(PYRAMID_CHANNELS, maps, 1)
        self.scalar = nn.Linear(channels[-1], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) in [0, 1], S a multiple of 32 → maps (B, maps, S/stride, S/stride), scalars (B,)."""
        pyramid, scalars = self.encode(image)
        return self.decode(pyramid), scalars

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 1, S, S) → features at the strides that `decode` needs, finest first, and scalars (B,)."""
        x = self.stem(image - 0.5)  # (B, C, S/2, S/2)
        pyramid = []
        for stage in self.down:
            x = stage(x)
            pyramid.append(x)  # strides 4, 8, 16, 32
        return pyramid[-len(self.lateral) :], self.scalar(x.mean((2, 3)))[:, 0]

    def decode(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Features of `encode` → maps (B, maps, S/stride, S/stride)."""
        merged = self.lateral[-1](pyramid[-1])  # (B, 64, S/32, S/32)
        for level in range(len(pyramid) - 2, -1, -1):
            merged = _upsample(merged) + self.lateral[level](pyramid[level])
        maps: Tensor = self.maps(self.smooth(merged))
        return maps


class PreparedPyramid(nn.Module):
    """A pyramid network for inference, with the interface of `PyramidNetwork`.

    Args:
        network: trained.
        compute: device, runtime, precision and threads.
        size_px: side S of the input.
    """

    def __init__(self, network: PyramidNetwork, compute: Compute, size_px: int) -> None:
        super().__init__()
        image = torch.zeros(1, 1, size_px, size_px)
        with torch.no_grad():
            pyramid, _ = network.encode(image)
        self.encoder = compute.prepared(_Encoder(network), image)
        self.decoder = compute.prepared(_Decoder(network), *pyramid)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) → maps and scalars, as `PyramidNetwork.forward`."""
        pyramid, scalars = self.encode(image)
        return self.decode(pyramid), scalars

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, 1, S, S) → features and scalars, as `PyramidNetwork.encode`."""
        *pyramid, scalars = self.encoder(image)
        return pyramid, scalars

    def decode(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Features of `encode` → maps, as `PyramidNetwork.decode`."""
        maps: Tensor = self.decoder(*pyramid)
        return maps


class _Encoder(nn.Module):
    """`PyramidNetwork.encode` as a module from tensors to a tuple of tensors: the features, then the scalars."""

    def __init__(self, network: PyramidNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pyramid, scalars = self.network.encode(image)
        return (*pyramid, scalars)


class _Decoder(nn.Module):
    """`PyramidNetwork.decode` as a module from tensors to a tensor."""

    def __init__(self, network: PyramidNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *pyramid: Tensor) -> Tensor:
        return self.network.decode(pyramid)


def _upsample(x: Tensor) -> Tensor:
    """Return (B, C, 2h, 2w), with the new cell 2j on the old cell j, so that cell j stays centred on pixel stride·j."""
    padded = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    size = (2 * x.shape[-2] + 1, 2 * x.shape[-1] + 1)
    return functional.interpolate(padded, size=size, mode="bilinear", align_corners=True)[..., :-1, :-1]
