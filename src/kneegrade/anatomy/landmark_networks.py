"""The landmark networks of the detector, and how their output is read.

- Coarse landmark network: reads a wide crop in either orientation and returns 74 heat maps and the logit that lateral
  is on the left.
- Fine landmark network: reads a level crop with lateral on the left, at more than twice the resolution, and returns 74
  heat maps and the logit that it shows a knee in this position.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.anatomy.pyramid_network import COARSE_CHANNELS, FINE_CHANNELS, PyramidNetwork

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
