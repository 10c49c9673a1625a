"""The 74 points of one knee: heat maps in a square about the knee, read by their expectation (integral regression).

Two networks of one make. The coarse one sees a wide square in either orientation: it calls the side and places the
knee. The fine one sees the level knee, lateral on the left, at more than twice the detail, and says whether it does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kneegrade.anatomy.heatmaps import SLIM, WIDTHS, PyramidNetwork
from kneegrade.anatomy.landmarks import NUM_LANDMARKS

LOCATOR_STRIDE = 4


@dataclass(frozen=True)
class View:
    """What a locator sees of a knee: a square of `size_px` that spans `widths` plateau widths."""

    size_px: int
    widths: float


COARSE = View(160, 1.8)
FINE = View(256, 1.25)


@dataclass(frozen=True)
class Located:
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


def coarse_network() -> PyramidNetwork:
    """The untrained coarse locator: 74 heat maps at stride 4 and one logit for lateral on the left."""
    return PyramidNetwork(NUM_LANDMARKS, LOCATOR_STRIDE, SLIM)


def fine_network() -> PyramidNetwork:
    """The untrained fine locator: 74 heat maps at stride 4 and one logit for a knee in its place."""
    return PyramidNetwork(NUM_LANDMARKS, LOCATOR_STRIDE, WIDTHS)


def read_points(maps: Tensor, score: Tensor) -> Located:
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
    return Located(expectation * LOCATOR_STRIDE, covariance * LOCATOR_STRIDE**2, score.float())


def expected_cells(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 74, 2) expected (x, y) in cells, and the softmaxed maps (B, 74, h, w), in float32."""
    chance = maps.float().flatten(2).softmax(-1).reshape(maps.shape)
    x = (chance.sum(2) * torch.arange(maps.shape[-1], device=maps.device)).sum(-1)
    y = (chance.sum(3) * torch.arange(maps.shape[-2], device=maps.device)).sum(-1)
    return torch.stack([x, y], dim=-1), chance
