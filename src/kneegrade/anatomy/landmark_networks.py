"""Knees on a whole film: a coarse map of joint centres with size and direction, read at its peaks.

The detector's small trunk: a pyramid network that gives maps at a fine stride from a coarse view of the picture.

The 74 points of one knee: heat maps in a square about the knee, read by their expectation (integral regression).

Two networks of one make. The coarse one sees a wide square in either orientation: it calls the side and places the
knee. The fine one sees the level knee, lateral on the left, at more than twice the detail, and says whether it does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.anatomy.geometry import Pose
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS

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


LANDMARK_STRIDE = 4


@dataclass(frozen=True)
class View:
    """What a locator sees of a knee: a square of `size_px` that spans `widths` plateau widths."""

    size_px: int
    widths: float


COARSE = View(160, 1.8)
FINE = View(256, 1.25)


@dataclass(frozen=True)
class LocatedLandmarks:
    """Points read in a batch of squares.

    Attributes:
        points_px: (B, 74, 2) float32 (x, y) in pixels of the square.
        covariance_px2: (B, 74, 2, 2) float32, of each heat map about its point: how sharp the call is, and along
            which direction it is not.
        score: (B,) logit; coarse: lateral lies on the square's left; fine: this is a level knee, in the middle, lateral
            on the left.
    """

    points_px: Tensor
    covariance_px2: Tensor
    score: Tensor


def coarse_landmark_network() -> PyramidNetwork:
    """The untrained coarse locator: 74 heat maps at stride 4 and one logit for lateral on the left."""
    return PyramidNetwork(NUM_LANDMARKS, LANDMARK_STRIDE, SLIM)


def fine_landmark_network() -> PyramidNetwork:
    """The untrained fine locator: 74 heat maps at stride 4 and one logit for a knee in its place."""
    return PyramidNetwork(NUM_LANDMARKS, LANDMARK_STRIDE, WIDTHS)


def read_points(maps: Tensor, score: Tensor) -> LocatedLandmarks:
    """Sub-pixel points from a locator's output ((B, 74, h, w), (B,)): the mean of each softmaxed map.

    Sun et al., "Integral human pose regression", ECCV 2018.
    """
    expectation, chance = expected_cells(maps)
    across, down = chance.sum(2), chance.sum(3)
    x = torch.arange(maps.shape[-1], device=maps.device) - expectation[..., :1]  # (B, 74, w)
    y = torch.arange(maps.shape[-2], device=maps.device) - expectation[..., 1:]
    xx, yy = (across * x**2).sum(-1), (down * y**2).sum(-1)
    xy = torch.einsum("bnhw,bnh,bnw->bn", chance, y, x)
    covariance = torch.stack([xx, xy, xy, yy], dim=-1).reshape(*xx.shape, 2, 2)
    return LocatedLandmarks(expectation * LANDMARK_STRIDE, covariance * LANDMARK_STRIDE**2, score.float())


def expected_cells(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 74, 2) expected (x, y) in cells, and the softmaxed maps (B, 74, h, w), in float32."""
    chance = maps.float().flatten(2).softmax(-1).reshape(maps.shape)
    x = (chance.sum(2) * torch.arange(maps.shape[-1], device=maps.device)).sum(-1)
    y = (chance.sum(3) * torch.arange(maps.shape[-2], device=maps.device)).sum(-1)
    return torch.stack([x, y], dim=-1), chance


LOCALIZER_PX = 256
LOCALIZER_STRIDE = 8
MOST = 4
APART = 0.7  # plateau widths between two knees
LONG = 1.6  # a film's sides, from which it is searched in parts too
CENTRE, LOG_WIDTH, DOWN_X, DOWN_Y = range(4)  # the finder's maps


@dataclass(frozen=True)
class Candidate:
    """A place that looks like a knee: its pose in film pixels (never mirrored) and a score 0 … 1."""

    pose: Pose
    score: float

    def moved(self, x: float, y: float) -> "Candidate":
        """The same place on a film of which this was a part with its first pixel at (x, y)."""
        centre = (self.pose.centre[0] + x, self.pose.centre[1] + y)
        return replace(self, pose=replace(self.pose, centre=centre))


def knee_localizer_network() -> PyramidNetwork:
    """The untrained finder: maps CENTRE (logit), LOG_WIDTH (of plateau width / 256 px), DOWN_X, DOWN_Y at stride 8."""
    return PyramidNetwork(maps=4, stride=LOCALIZER_STRIDE, widths=SLIM)


@torch.inference_mode()
def localize_knees(
    network: PyramidNetwork, pixels: NDArray[np.float32], threshold: float, device: torch.device
) -> list[Candidate]:
    """At most `MOST` candidates on a film (H, W) float32 in [0, 1], best first.

    A film much longer than wide, as one of whole legs, is also searched in overlapping squares, where knees are larger.
    """
    film = torch.from_numpy(np.ascontiguousarray(pixels))
    found: list[Candidate] = []
    for x, y, part in [(0, 0, film), *_squares(film)]:
        picture, factor = localizer_input(part)
        maps, _ = network(picture.to(device, memory_format=torch.channels_last))
        found += [c.moved(x, y) for c in read_candidates(maps[0].cpu(), factor, threshold)]
    return spread_out(found)


def _squares(film: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(x, y, part) of squares of the shorter side that cover a long film, each half over the next."""
    height, width = film.shape
    side = min(height, width)
    if max(height, width) < LONG * side:
        return
    number = math.ceil(2 * (max(height, width) - side) / side)
    for start in (round(i * (max(height, width) - side) / number) for i in range(number + 1)):
        x, y = (0, start) if height > width else (start, 0)
        yield x, y, film[y : y + side, x : x + side]


def spread_out(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best `MOST` candidates, best first; of two nearer than `APART` plateau widths the better stays."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        pose = candidate.pose
        apart = all(math.dist(pose.centre, k.pose.centre) > APART * pose.width for k in kept)
        if apart and len(kept) < MOST:
            kept.append(candidate)
    return kept


def localizer_input(pixels: Tensor) -> tuple[Tensor, float]:
    """A film (H, W) in [0, 1] shrunk to fit (1, 1, 256, 256), zero below and right; and film pixels per input pixel."""
    factor = max(pixels.shape) / LOCALIZER_PX
    size = [max(1, round(side / factor)) for side in pixels.shape]
    shrunk = functional.interpolate(pixels[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)
    low, high = torch.quantile(shrunk, torch.tensor([0.01, 0.99]))
    shrunk = ((shrunk - low) / (high - low).clamp(min=1e-4)).clamp(0, 1)
    return functional.pad(shrunk, (0, LOCALIZER_PX - size[1], 0, LOCALIZER_PX - size[0])), factor


def read_candidates(maps: Tensor, factor: float, threshold: float) -> list[Candidate]:
    """At most `MOST` candidates from the finder's maps (4, 32, 32), best first.

    A peak is a cell that is the largest of its 3×3 neighbours; its place is refined by the scores around it.

    Args:
        maps: the network's output for one film.
        factor: film pixels per input pixel.
        threshold: least score of a candidate.
    """
    score = torch.sigmoid(maps[CENTRE].float())
    peaks = (score == functional.max_pool2d(score[None], 3, 1, 1)[0]) & (score >= threshold)
    return spread_out(
        [
            Candidate(_pose_at(maps, score, row, column, factor), float(score[row, column]))
            for row, column in peaks.nonzero().tolist()
        ]
    )


def _pose_at(maps: Tensor, score: Tensor, row: int, column: int, factor: float) -> Pose:
    rows = slice(max(row - 1, 0), row + 2)
    columns = slice(max(column - 1, 0), column + 2)
    near = score[rows, columns]
    y = (near.sum(1) * torch.arange(rows.start, rows.start + near.shape[0])).sum() / near.sum()
    x = (near.sum(0) * torch.arange(columns.start, columns.start + near.shape[1])).sum() / near.sum()
    width = float(torch.exp(maps[LOG_WIDTH, row, column].float().clamp(-4, 1))) * LOCALIZER_PX * factor
    down = maps[[DOWN_X, DOWN_Y], row, column].float()
    down = down / down.norm().clamp(min=1e-6)
    # A pixel i of the shrunk picture covers film pixels around (i + ½)·factor − ½.
    centre = tuple(float((axis * LOCALIZER_STRIDE + 0.5) * factor - 0.5) for axis in (x, y))
    return Pose((centre[0], centre[1]), width, (float(down[0]), float(down[1])), mirrored=False)
