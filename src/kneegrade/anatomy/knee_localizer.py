"""The knee localizer: a small network that reads the whole film, scaled to 256 px, and how its output is read.

It returns maps of the joint centre, the size and the direction of the knees.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.geometry import Pose
from kneegrade.anatomy.pyramid_network import COARSE_CHANNELS, PreparedPyramid, PyramidNetwork
from kneegrade.anatomy.tail_percentiles import low_high_percentile

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
    scaled = (scaled - low).div_((high - low).clamp(min=1e-4)).clamp_(0, 1)
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
