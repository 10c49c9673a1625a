"""The 74 points of one knee: heat maps in a square about the knee, read by their expectation (integral regression)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kneegrade.anatomy.heatmaps import PyramidNetwork
from kneegrade.anatomy.landmarks import NUM_LANDMARKS

LOCATOR_PX = 192
LOCATOR_STRIDE = 4
LOCATOR_WIDTHS = 1.6  # plateau widths across the square


@dataclass(frozen=True)
class Located:
    """Points read in a batch of squares.

    Attributes:
        points_px: (B, 74, 2) float32 (x, y) in pixels of the square.
        mass: (B, 74) share of each heat map within two cells of the point, 0 … 1: how sharp the call is.
        lateral_left: (B,) logit that lateral lies on the square's left.
    """

    points_px: Tensor
    mass: Tensor
    lateral_left: Tensor


def locator_network() -> PyramidNetwork:
    """The untrained locator: 74 heat maps at stride 4 and one logit for lateral on the left."""
    return PyramidNetwork(maps=NUM_LANDMARKS, stride=LOCATOR_STRIDE, scalars=1)


def read_points(maps: Tensor, scalars: Tensor) -> Located:
    """Sub-pixel points from the locator's output ((B, 74, h, w), (B, 1)): the mean of each softmaxed map.

    Sun et al., "Integral human pose regression", ECCV 2018.
    """
    expectation, chance = expected_cells(maps)
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y], dim=-1).to(maps.device)  # (h, w, 2)
    distance = (cells - expectation[:, :, None, None]).norm(dim=-1)  # (B, 74, h, w)
    mass = (chance * (distance <= 2)).sum((2, 3))
    return Located(expectation * LOCATOR_STRIDE, mass, scalars[:, 0].float())


def expected_cells(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 74, 2) expected (x, y) in cells, and the softmaxed maps (B, 74, h, w), in float32."""
    chance = maps.float().flatten(2).softmax(-1).reshape(maps.shape)
    x = (chance.sum(2) * torch.arange(maps.shape[-1], device=maps.device)).sum(-1)
    y = (chance.sum(3) * torch.arange(maps.shape[-2], device=maps.device)).sum(-1)
    return torch.stack([x, y], dim=-1), chance
