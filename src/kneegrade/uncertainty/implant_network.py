"""`ImplantNetwork`: is there metal in this knee? A small network on a small picture of the region.

Metal is the brightest of a radiograph, has edges that no bone has, and may be as small as a staple: what is left of a
knee at 144 px still shows it. `kneegrade.training.train_implants` teaches it.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

IMPLANT_PX = 144
WIDTHS = (1, 16, 24, 32, 48, 64)


class ImplantNetwork(nn.Module):
    """(B, 1, 144, 144) pictures in [0, 1] → (B,) logits of metal."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in pairwise(WIDTHS):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * WIDTHS[-1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """What stands out most anywhere, and what is there on average, decide."""
        seen = self.body(pictures)
        logits: Tensor = self.head(torch.cat([seen.amax((2, 3)), seen.mean((2, 3))], dim=1))
        return logits.squeeze(1)

    @torch.no_grad()
    def probability(self, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N,) of metal, in a population where half of the knees have some.

        Args:
            pictures: (N, 144, 144) as `implant_input` makes them.
        """
        parts = [torch.from_numpy(pictures[start : start + 256]) for start in range(0, len(pictures), 256)]
        said = [self(part.unsqueeze(1).float() / 255).double().sigmoid().numpy() for part in parts]
        return np.concatenate(said) if said else np.empty(0)


def implant_input(roi: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(144, 144) means over a region (S, S) in [0, 1], 255 = 1."""
    small = functional.interpolate(torch.from_numpy(roi)[None, None], IMPLANT_PX, mode="area")[0, 0]
    return np.asarray((small * 255).round().to(torch.uint8))
