"""`ImplantNetwork`: a small network that detects metal in a downsampled crop of a knee.

Metal is the brightest structure of a radiograph, has sharper edges than bone, and may be as small as a staple. It is
still visible in a crop of 144 px. The network is trained by `kneegrade.training.train_implants`.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

IMPLANT_PX = 144  # side of the input
CHANNELS = (1, 16, 24, 32, 48, 64)
BATCH_SIZE = 256


class ImplantNetwork(nn.Module):
    """Five strided convolutions, maximum and mean pooling, and a linear layer: images to logits of metal."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in pairwise(CHANNELS):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * CHANNELS[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B,) logits of metal.

        Args:
            images: (B, 1, 144, 144) in [0, 1].
        """
        features = self.body(images)
        logits: Tensor = self.head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1))
        return logits.squeeze(1)

    @torch.no_grad()
    def probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N,) probability of metal, in a population where half of the knees have metal.

        Args:
            images: (N, 144, 144) from `implant_input`.
        """
        batches = [torch.from_numpy(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)]
        parts = [self(batch.unsqueeze(1).float() / 255).double().sigmoid().numpy() for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0)


def implant_input(roi: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(144, 144) input of the network: the crop downsampled by area averaging, 255 = 1.

    Args:
        roi: (S, S) crop of a knee in [0, 1].
    """
    small = functional.interpolate(torch.from_numpy(roi)[None, None], IMPLANT_PX, mode="area")[0, 0]
    return np.asarray((small * 255).round().to(torch.uint8))
