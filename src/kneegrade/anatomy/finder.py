"""Knees on a whole film: a coarse map of joint centres with size and direction, read at its peaks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.heatmaps import SLIM, PyramidNetwork
from kneegrade.anatomy.roi import Pose

FINDER_PX = 256
FINDER_STRIDE = 8
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


def finder_network() -> PyramidNetwork:
    """The untrained finder: maps CENTRE (logit), LOG_WIDTH (of plateau width / 256 px), DOWN_X, DOWN_Y at stride 8."""
    return PyramidNetwork(maps=4, stride=FINDER_STRIDE, widths=SLIM)


@torch.inference_mode()
def find_candidates(
    network: PyramidNetwork, pixels: NDArray[np.float32], threshold: float, device: torch.device
) -> list[Candidate]:
    """At most `MOST` candidates on a film (H, W) float32 in [0, 1], best first.

    A film much longer than wide, as one of whole legs, is also searched in overlapping squares, where knees are larger.
    """
    film = torch.from_numpy(np.ascontiguousarray(pixels))
    found: list[Candidate] = []
    for x, y, part in [(0, 0, film), *_squares(film)]:
        picture, factor = finder_input(part)
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


def finder_input(pixels: Tensor) -> tuple[Tensor, float]:
    """A film (H, W) in [0, 1] shrunk to fit (1, 1, 256, 256), zero below and right; and film pixels per input pixel."""
    factor = max(pixels.shape) / FINDER_PX
    size = [max(1, round(side / factor)) for side in pixels.shape]
    shrunk = functional.interpolate(pixels[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)
    low, high = torch.quantile(shrunk, torch.tensor([0.01, 0.99]))
    shrunk = ((shrunk - low) / (high - low).clamp(min=1e-4)).clamp(0, 1)
    return functional.pad(shrunk, (0, FINDER_PX - size[1], 0, FINDER_PX - size[0])), factor


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
    width = float(torch.exp(maps[LOG_WIDTH, row, column].float().clamp(-4, 1))) * FINDER_PX * factor
    down = maps[[DOWN_X, DOWN_Y], row, column].float()
    down = down / down.norm().clamp(min=1e-6)
    # A pixel i of the shrunk picture covers film pixels around (i + ½)·factor − ½.
    centre = tuple(float((axis * FINDER_STRIDE + 0.5) * factor - 0.5) for axis in (x, y))
    return Pose((centre[0], centre[1]), width, (float(down[0]), float(down[1])), mirrored=False)
