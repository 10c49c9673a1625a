"""The two networks that read side markers: one proposes where letters R and L are, one reads each of them.

The locator is a fully convolutional network on the reduced film. The reader gets a crop around each proposal, cut from
the film at its own resolution, so that a small letter keeps its pixels. Both learn from drawn markers
(`kneegrade.training.markers.train_markers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

LOCATOR_LONGEST_PX = 1024  # longer side of the film that the locator reads
CELL_PX = 8  # side of a cell of the locator's output
RARE_LOGIT = -4.0  # of a letter in a cell, at the start of training
BASE_HEIGHT_PX = 20.0  # height of a letter whose output for the height is 0
CROP_PX = 64  # side of the reader's input
CROP_HEIGHTS = 8 / 3  # the same in heights of the letter
CLASSES = ("none", "R", "L", "mirrored R", "mirrored L")
MIRRORED_CLASS = (0, 3, 4, 1, 2)  # class of the mirrored crop


class MarkerLocator(nn.Module):
    """Convolutions at strides 4 and 8: a film to a score, a position and a height for each cell of 8 px."""

    def __init__(self) -> None:
        super().__init__()

        def layer(before: int, width: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(before, width, 3, stride, dilation, dilation, bias=False)
            return [conv, nn.BatchNorm2d(width), nn.ReLU()]

        self.fine = nn.Sequential(*layer(16, 16), *layer(16, 16))
        self.wide = nn.Sequential(*layer(16, 40, 2), *layer(40, 40), *layer(40, 40, 1, 2), *layer(40, 40, 1, 4))
        self.head = nn.Conv2d(40, 4, 1)
        with torch.no_grad():
            self.head.bias[0] = RARE_LOGIT  # type: ignore[index]

    def forward(self, films: Tensor) -> Tensor:
        """(B, 4, H / 8, W / 8): logit of a letter; its x and y from the cell's centre, in cells; log of its height.

        Args:
            films: (B, 1, H, W) in [0, 1]; H and W are multiples of 8.
        """
        output: Tensor = self.head(self.wide(self.fine(functional.pixel_unshuffle(films - 0.5, 4))))
        return output


class MarkerClassifier(nn.Module):
    """Convolutions and a linear layer: a crop to the logits of `CLASSES`. The crop is standardised first."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width, stride in ((16, 2), (32, 1), (32, 2), (64, 1), (64, 2), (96, 1)):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.squeeze = nn.Sequential(nn.Conv2d(before, 24, 1), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(24 * (CROP_PX // 8) ** 2 + before, len(CLASSES))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 5) logits of `CLASSES`.

        Args:
            crops: (B, 1, 64, 64), the letter 24 px high and near the centre; any range.
        """
        mean, deviation = crops.mean((2, 3), keepdim=True), crops.std((2, 3), keepdim=True)
        features = self.body((crops - mean) / deviation.clamp(min=0.02))  # (B, 96, 8, 8)
        pooled = torch.cat([self.squeeze(features).flatten(1), features.amax((2, 3))], dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


@dataclass(frozen=True)
class Proposal:
    """A possible letter: centre (x, y) and height in pixels of the film, and the locator's probability."""

    x: float
    y: float
    height: float
    score: float


def reduced_film(pixels: NDArray[np.float32]) -> tuple[Tensor, float]:
    """The locator's input (1, 1, H, W), sides multiples of 8, and its size relative to the film.

    Args:
        pixels: (H, W) in [0, 1].
    """
    film = torch.from_numpy(np.require(pixels, np.float32, ["C", "W"])).view(1, 1, *pixels.shape)
    scale = min(1.0, LOCATOR_LONGEST_PX / max(pixels.shape))
    whole = int(1 / scale)
    if whole > 1:  # a mean over whole blocks first: it is several times faster than `area` interpolation
        film = functional.avg_pool2d(film, whole)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in pixels.shape]
        film = functional.interpolate(film, size=size, mode="bilinear", antialias=True)
    rows, columns = film.shape[-2:]
    return functional.pad(film, (0, -columns % CELL_PX, 0, -rows % CELL_PX)), scale


def proposals_of(output: Tensor, scale: float, *, most: int, threshold: float) -> list[Proposal]:
    """The best local maxima of the locator's output, best first.

    Args:
        output: (4, h, w) of one film.
        scale: size of the locator's input relative to the film.
        most: number of proposals at most.
        threshold: lowest probability.
    """
    score = output[0].sigmoid()
    best = functional.max_pool2d(score[None, None], 3, 1, 1)[0, 0]
    rows, columns = torch.nonzero((score == best) & (score >= threshold), as_tuple=True)
    order = score[rows, columns].argsort(descending=True)[:most]
    proposals = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        _, dx, dy, log_height = output[:, row, column].tolist()
        x, y = ((cell + 0.5 + float(np.clip(shift, -1.5, 1.5))) * CELL_PX for cell, shift in ((column, dx), (row, dy)))
        height = BASE_HEIGHT_PX * float(np.exp(np.clip(log_height, -2, 2)))
        proposals.append(Proposal(x / scale - 0.5, y / scale - 0.5, height / scale, float(score[row, column])))
    return proposals


def marker_crops(pixels: NDArray[np.float32], proposals: Sequence[Proposal], zoom: float = 1.0) -> Tensor:
    """(N, 1, 64, 64) crops of the film around N proposals; 0 outside the film.

    Args:
        pixels: (H, W) in [0, 1].
        proposals: where.
        zoom: factor on the size of the letters in the crops.
    """
    crops = []
    for proposal in proposals:
        half = CROP_HEIGHTS * proposal.height / zoom / 2
        left, top = round(proposal.x + 0.5 - half), round(proposal.y + 0.5 - half)
        side = max(8, round(2 * half))
        crops.append(_square(pixels, left, top, side))
    return torch.cat(crops) if crops else torch.empty(0, 1, CROP_PX, CROP_PX)


def _square(pixels: NDArray[np.float32], left: int, top: int, side: int) -> Tensor:
    """(1, 1, 64, 64): a square of the film resampled to the reader's input; 0 outside the film."""
    rows, columns = pixels.shape
    piece = np.zeros((side, side), dtype=np.float32)
    y0, y1, x0, x1 = max(0, top), min(rows, top + side), max(0, left), min(columns, left + side)
    if y1 > y0 and x1 > x0:
        piece[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    crop = torch.from_numpy(piece).view(1, 1, side, side)
    return functional.interpolate(crop, size=(CROP_PX, CROP_PX), mode="bilinear", antialias=True)
