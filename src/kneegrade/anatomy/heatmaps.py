"""The detector's small trunk: a pyramid network that gives maps at a fine stride from a coarse view of the picture."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 48, 96, 160, 224)  # channels at strides 2, 4, 8, 16, 32
SLIM = (24, 36, 64, 104, 144)  # enough where the answer is coarse


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

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
    """Maps at `stride` and one number per picture.

    Args:
        maps: number of output maps.
        stride: 4 or 8, pixels of the input per cell of the maps; cell j is centred on pixel stride·j.
        widths: channels at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, maps: int, stride: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stride = stride
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(nn.Sequential(Block(a, b, 2), Block(b, b, 1)) for a, b in pairwise(widths))
        levels = 4 if stride == 4 else 3
        self.lateral = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in widths[-levels:])
        self.smooth = Block(64, 64, 1)
        self.maps = nn.Conv2d(64, maps, 1)
        self.scalar = nn.Linear(widths[-1], 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) in [0, 1], S a multiple of 32 → ((B, maps, S/stride, S/stride), (B,))."""
        x = self.stem(picture - 0.5)
        pyramid = []
        for stage in self.down:
            x = stage(x)
            pyramid.append(x)
        pyramid = pyramid[-len(self.lateral) :]
        merged = self.lateral[-1](pyramid[-1])
        for level in range(len(pyramid) - 2, -1, -1):
            merged = _double(merged) + self.lateral[level](pyramid[level])
        return self.maps(self.smooth(merged)), self.scalar(x.mean((2, 3)))[:, 0]


def _double(x: Tensor) -> Tensor:
    """Twice the cells with cell 2j on the old cell j, so that cell j stays centred on pixel stride·j."""
    padded = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    size = (2 * x.shape[-2] + 1, 2 * x.shape[-1] + 1)
    return functional.interpolate(padded, size=size, mode="bilinear", align_corners=True)[..., :-1, :-1]
