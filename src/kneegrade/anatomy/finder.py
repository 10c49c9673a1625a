"""Knees on a whole film: a coarse map of joint centres with size and direction, read at its peaks."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.heatmaps import PyramidNetwork
from kneegrade.anatomy.roi import Pose

FINDER_PX = 256
FINDER_STRIDE = 8
MOST = 4
APART = 0.7  # plateau widths between two knees
CENTRE, LOG_WIDTH, DOWN_X, DOWN_Y = range(4)  # the finder's maps


@dataclass(frozen=True)
class Candidate:
    """A place that looks like a knee: its pose in film pixels (never mirrored) and a score 0 … 1."""

    pose: Pose
    score: float


def finder_network() -> PyramidNetwork:
    """The untrained finder: maps CENTRE (logit), LOG_WIDTH (of plateau width / 256 px), DOWN_X, DOWN_Y at stride 8."""
    return PyramidNetwork(maps=4, stride=FINDER_STRIDE)


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

    A peak is a cell that is the largest of its 3×3 neighbours; its place is refined by the scores around it. Of two
    peaks nearer than `APART` plateau widths the better stays.

    Args:
        maps: the network's output for one film.
        factor: film pixels per input pixel.
        threshold: least score of a candidate.
    """
    score = torch.sigmoid(maps[CENTRE].float())
    peaks = (score == functional.max_pool2d(score[None], 3, 1, 1)[0]) & (score >= threshold)
    found: list[Candidate] = []
    for row, column in sorted(peaks.nonzero().tolist(), key=lambda cell: -float(score[cell[0], cell[1]])):
        pose = _pose_at(maps, score, row, column, factor)
        apart = [torch.dist(torch.tensor(pose.centre), torch.tensor(c.pose.centre)) / pose.width for c in found]
        if len(found) < MOST and all(distance > APART for distance in apart):
            found.append(Candidate(pose, float(score[row, column])))
    return found


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
