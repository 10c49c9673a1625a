"""The networks of the landmark detector, and how their output is read.

All three are small pyramid networks (`PyramidNetwork`) that return maps at a fine stride and one number per image.

- Knee localizer: reads the whole film, scaled to 256 px, and returns maps of the joint centre, the size and the
  direction of the knees.
- Coarse landmark network: reads a wide crop in either orientation and returns 74 heat maps and the logit that lateral
  is on the left.
- Fine landmark network: reads a level crop with lateral on the left, at more than twice the resolution, and returns 74
  heat maps and the logit that it shows a knee in this position.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.anatomy.geometry import Pose, low_high_percentile
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
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


# Knee localizer

LOCALIZER_PX = 256
LOCALIZER_STRIDE = 8
CENTRE, LOG_WIDTH, DOWN_X, DOWN_Y = range(4)  # channels of the maps
MAX_CANDIDATES = 4
MIN_SEPARATION = 0.7  # plateau widths between the centres of two knees
LONG_FILM_RATIO = 1.6  # of the sides of a film, from which it is also searched in squares


@dataclass(frozen=True)
class Candidate:
    """Possible knee on a film: pose in pixels of the film (`mirrored` is always False) and score, 0 … 1."""

    pose: Pose
    score: float

    def moved(self, x: float, y: float) -> "Candidate":
        """Return the candidate shifted by (x, y) pixels."""
        centre = (self.pose.centre[0] + x, self.pose.centre[1] + y)
        return replace(self, pose=replace(self.pose, centre=centre))


def knee_localizer_network() -> PyramidNetwork:
    """Return the untrained knee localizer.

    Its maps, at stride 8, are CENTRE (logit), LOG_WIDTH (logarithm of plateau width / 256 px), DOWN_X and DOWN_Y
    (direction from femur to tibia).
    """
    return PyramidNetwork(maps=4, stride=LOCALIZER_STRIDE, channels=COARSE_CHANNELS)


@torch.inference_mode()
def localize_knees(
    network: PyramidNetwork | PreparedPyramid,
    pixels: NDArray[np.float32],
    threshold: float,
    device: torch.device,
    limit: int = MAX_CANDIDATES,
    *,
    in_tiles: bool = False,
) -> list[Candidate]:
    """Return at most `limit` candidates on a film, best first.

    A film much longer than wide, such as one of whole legs, is also searched in overlapping squares, in which the knees
    are larger.

    Args:
        network: the knee localizer.
        pixels: (H, W) float32 in [0, 1].
        threshold: minimum score of a candidate.
        device: of the network.
        limit: largest number of candidates.
        in_tiles: also search nine overlapping tiles, in which the knees of several films on one picture are larger.
    """
    film = torch.from_numpy(np.ascontiguousarray(pixels))
    candidates: list[Candidate] = []
    tiles = _tiles(film) if in_tiles else ()
    for x, y, part in [(0, 0, film), *_overlapping_squares(film), *tiles]:
        image, factor = localizer_input(part)
        maps, _ = network(image.to(device, memory_format=torch.channels_last))
        candidates += [c.moved(x, y) for c in read_candidates(maps[0].float().cpu(), factor, threshold, limit)]
    return non_maximum_suppression(candidates, limit)


def _overlapping_squares(film: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (x, y, part) for squares that cover a long film, with half of each square covered by the next."""
    height, width = film.shape
    side = min(height, width)
    if max(height, width) < LONG_FILM_RATIO * side:
        return
    number = math.ceil(2 * (max(height, width) - side) / side)
    for start in (round(i * (max(height, width) - side) / number) for i in range(number + 1)):
        x, y = (0, start) if height > width else (start, 0)
        yield x, y, film[y : y + side, x : x + side]


def _tiles(film: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (x, y, part) for the nine tiles of half the height and width, with half of each covered by the next."""
    height, width = (max(1, side // 2) for side in film.shape)
    for y in (0, height // 2, film.shape[0] - height):
        for x in (0, width // 2, film.shape[1] - width):
            yield x, y, film[y : y + height, x : x + width]


def localizer_input(pixels: Tensor) -> tuple[Tensor, float]:
    """Return the input of the knee localizer, and the number of film pixels per input pixel.

    Args:
        pixels: (H, W) in [0, 1].

    Returns:
        (1, 1, 256, 256): the film scaled to fit, with stretched contrast, padded with zeros at the bottom and on the
        right; and the scale factor.
    """
    factor = max(pixels.shape) / LOCALIZER_PX
    size = [max(1, round(side / factor)) for side in pixels.shape]
    scaled = functional.interpolate(pixels[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)
    low, high = low_high_percentile(scaled.flatten()[None])
    scaled = ((scaled - low) / (high - low).clamp(min=1e-4)).clamp(0, 1)
    return functional.pad(scaled, (0, LOCALIZER_PX - size[1], 0, LOCALIZER_PX - size[0])), factor


def read_candidates(maps: Tensor, factor: float, threshold: float, limit: int = MAX_CANDIDATES) -> list[Candidate]:
    """Return at most `limit` candidates from the maps of the localizer, best first.

    A candidate is a cell with the highest score of its 3×3 neighbourhood; its position is the score-weighted mean of
    that neighbourhood.

    Args:
        maps: (4, 32, 32), the network's output for one film.
        factor: film pixels per input pixel.
        threshold: minimum score of a candidate.
        limit: largest number of candidates.
    """
    score = torch.sigmoid(maps[CENTRE].float())
    peaks = (score == functional.max_pool2d(score[None], 3, 1, 1)[0]) & (score >= threshold)
    return non_maximum_suppression(
        [
            Candidate(_pose_at(maps, score, row, column, factor), float(score[row, column]))
            for row, column in peaks.nonzero().tolist()
        ],
        limit,
    )


def _pose_at(maps: Tensor, score: Tensor, row: int, column: int, factor: float) -> Pose:
    """Return the pose, in pixels of the film, that the maps give at one cell."""
    rows = slice(max(row - 1, 0), row + 2)
    columns = slice(max(column - 1, 0), column + 2)
    near = score[rows, columns]
    y = (near.sum(1) * torch.arange(rows.start, rows.start + near.shape[0])).sum() / near.sum()
    x = (near.sum(0) * torch.arange(columns.start, columns.start + near.shape[1])).sum() / near.sum()
    width = float(torch.exp(maps[LOG_WIDTH, row, column].float().clamp(-4, 1))) * LOCALIZER_PX * factor
    down = maps[[DOWN_X, DOWN_Y], row, column].float()
    down = down / down.norm().clamp(min=1e-6)
    # Pixel i of the scaled film covers film pixels around (i + ½)·factor − ½.
    centre = tuple(float((axis * LOCALIZER_STRIDE + 0.5) * factor - 0.5) for axis in (x, y))
    return Pose((centre[0], centre[1]), width, (float(down[0]), float(down[1])), mirrored=False)


def non_maximum_suppression(candidates: Sequence[Candidate], limit: int = MAX_CANDIDATES) -> list[Candidate]:
    """Return the best `limit` candidates that are `MIN_SEPARATION` plateau widths apart, best first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        pose = candidate.pose
        separate = all(math.dist(pose.centre, k.pose.centre) > MIN_SEPARATION * pose.width for k in kept)
        if separate and len(kept) < limit:
            kept.append(candidate)
    return kept


# Landmark networks

LANDMARK_STRIDE = 4


@dataclass(frozen=True)
class View:
    """Input of a landmark network: a square crop of `size_px` pixels whose side is `plateau_widths` plateau widths."""

    size_px: int
    plateau_widths: float


COARSE = View(160, 1.8)
FINE = View(256, 1.25)


@dataclass(frozen=True)
class LocatedLandmarks:
    """Landmarks of a batch of crops, as a landmark network locates them.

    Attributes:
        points_px: (B, 74, 2) float32, (x, y) in pixels of the crop.
        covariance_px2: (B, 74, 2, 2) float32, covariance of each heat map.
        score: (B,) logit. Coarse network: lateral is on the left of the crop. Fine network: the crop is level and
            centred on a knee with lateral on the left.
    """

    points_px: Tensor
    covariance_px2: Tensor
    score: Tensor


def coarse_landmark_network() -> PyramidNetwork:
    """Return the untrained coarse network: 74 heat maps at stride 4, and the logit that lateral is on the left."""
    return PyramidNetwork(NUM_LANDMARKS, LANDMARK_STRIDE, COARSE_CHANNELS)


def fine_landmark_network() -> PyramidNetwork:
    """Return the untrained fine network: 74 heat maps at stride 4, and the logit that the crop shows a knee."""
    return PyramidNetwork(NUM_LANDMARKS, LANDMARK_STRIDE, FINE_CHANNELS)


def read_points(maps: Tensor, score: Tensor) -> LocatedLandmarks:
    """Return the landmarks of heat maps: expectation and covariance of the softmax of each map.

    Sun et al., "Integral human pose regression", ECCV 2018.

    Args:
        maps: (B, 74, h, w) logits.
        score: (B,) logits.
    """
    probability, of_columns, of_rows = _softmax_with_sums(maps)
    expectation = _expectation(of_columns, of_rows)
    x = torch.arange(maps.shape[-1], device=maps.device) - expectation[..., :1]  # (B, 74, w)
    y = torch.arange(maps.shape[-2], device=maps.device) - expectation[..., 1:]  # (B, 74, h)
    xx = (of_columns * x**2).sum(-1)  # (B, 74)
    yy = (of_rows * y**2).sum(-1)
    xy = torch.einsum("bnhw,bnh,bnw->bn", probability, y, x)
    covariance = rearrange([xx, xy, xy, yy], "(row column) b n -> b n row column", row=2)
    return LocatedLandmarks(expectation * LANDMARK_STRIDE, covariance * LANDMARK_STRIDE**2, score.float())


def soft_argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the expectation (x, y) in cells, (B, 74, 2), and the softmax, (B, 74, h, w), of heat maps; float32."""
    probability, of_columns, of_rows = _softmax_with_sums(maps)
    return _expectation(of_columns, of_rows), probability


def _softmax_with_sums(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmax of each map, (B, N, h, w), and its sums over columns, (B, N, w), and rows, (B, N, h)."""
    probability = maps.float().contiguous().flatten(2).softmax(-1).reshape(maps.shape)
    return probability, probability.sum(2), probability.sum(3)


def _expectation(of_columns: Tensor, of_rows: Tensor) -> Tensor:
    """Return (B, N, 2), the expectation of column and row."""
    axes = [(share * torch.arange(share.shape[-1], device=share.device)).sum(-1) for share in (of_columns, of_rows)]
    return torch.stack(axes, dim=-1)
