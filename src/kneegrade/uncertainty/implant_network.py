"""`ImplantNetwork`: a small network that detects metal in a downsampled crop of a knee.

Metal is the brightest structure of a radiograph, has sharper edges than bone, and may be as small as a staple. It is
still visible in a crop of 144 px. Hospitals differ in grey values and in how much of the knee a picture shows.
Therefore the network standardises every picture, and receives which pixels are on the film. Markers lie beside the
bones; therefore it receives coordinates too. `kneegrade.training.metal.train_implants` trains it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.errors import WeightsError
from kneegrade.weights import load_part, load_weights, read_description, save_weights
from kneegrade.weights.compute import Compute

IMPLANT_PX = 144  # side of the input
LAYERS = ((16, 2), (32, 2), (48, 2), (48, 1), (96, 2), (128, 1))  # width and stride of each convolution
EARLIER_LAYERS = ((16, 2), (24, 2), (32, 2), (48, 2), (64, 2))
INPUTS = 4  # standardised grey value, on the film, x, y
DROPOUT = 0.2
BATCH_SIZE = 256
NETWORK_KEY = "gate.implant_network"  # prefix in a weights file, as in a grader's
CERTAIN_KEY, POSSIBLE_KEY = "gate.implant_limit", "gate.possible_implant_limit"


@dataclass(frozen=True)
class ImplantLimits:
    """Limits for the probability of metal.

    Attributes:
        possible: above it metal is possible: a finding.
        certain: above it metal is certain: the knee is refused; at least `possible`.
    """

    possible: float
    certain: float


class ImplantNetwork(nn.Module):
    """Convolutions, maximum and mean pooling, and a linear layer: images to logits of metal.

    Args:
        earlier: the network of earlier weights, which reads grey values as they are.
    """

    def __init__(self, *, earlier: bool = False) -> None:
        super().__init__()
        self.earlier = earlier
        layers: list[nn.Module] = []
        before = 1 if earlier else INPUTS
        for width, stride in EARLIER_LAYERS if earlier else LAYERS:
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * before, 1)
        self.dropout = nn.Dropout(DROPOUT)

    @staticmethod
    def matching(tensors: Mapping[str, Tensor]) -> "ImplantNetwork":
        """A new network of the kind whose parameters are `tensors`, which are not loaded.

        Args:
            tensors: of an implant network, by their names in `state_dict`.
        """
        first = tensors.get("body.0.weight")
        return ImplantNetwork(earlier=first is not None and first.shape[1:2] == (1,)).eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B,) logits of metal.

        Args:
            images: (B, 1, 144, 144) in (0, 1], 0 outside the film.
        """
        features = self.body(images if self.earlier else standardised(images))
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits.squeeze(1)

    def prepared(self, compute: Compute) -> "ImplantNetwork":
        """This network, changed for predictions with the given runtime and threads."""
        images = torch.zeros(1, 1 if self.earlier else INPUTS, IMPLANT_PX, IMPLANT_PX)
        self.body = compute.prepared(self.body, images)  # type: ignore[assignment]
        return self.eval()

    @torch.no_grad()
    def probability(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N,) probability of metal, in a population where half of the knees have metal.

        Args:
            images: (N, 144, 144) from `implant_input`.
        """
        batches = [torch.from_numpy(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)]
        parts = [self(batch.unsqueeze(1).float() / 255).double().sigmoid().numpy() for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0)


def standardised(images: Tensor) -> Tensor:
    """(B, 4, S, S): grey values with mean 0 and standard deviation 1 on the film, on the film or not, x and y in ±1.

    Args:
        images: (B, 1, S, S) in (0, 1], 0 outside the film.
    """
    inside = (images > 0).to(images.dtype)
    number = inside.sum((2, 3), keepdim=True).clamp(min=1)
    mean = images.sum((2, 3), keepdim=True) / number
    deviation = (((images - mean) * inside).square().sum((2, 3), keepdim=True) / number).sqrt().clamp(min=1e-3)
    axis = torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype, device=images.device)
    x = axis.expand(images.shape)
    return torch.cat([(images - mean) / deviation * inside, inside, x, x.transpose(2, 3)], dim=1)


def implant_input(roi: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(144, 144) input of the network: means over the film's pixels, 1 … 255; 0 where most is outside the film.

    Args:
        roi: (S, S) crop of a knee in [0, 1].
        inside: (S, S) bool, which pixels are on the film.
    """
    crop = torch.from_numpy(np.stack([roi * inside, inside]).astype(np.float32)).unsqueeze(1)
    return np.asarray(implant_inputs(crop[:1], crop[1:])[0])


def implant_inputs(rois: Tensor, inside: Tensor) -> NDArray[np.uint8]:
    """(N, 144, 144) inputs of the network; see `implant_input`.

    Args:
        rois: (N, 1, S, S) crops in [0, 1], 0 outside the film.
        inside: (N, 1, S, S) bool or float, which pixels are on the film.
    """
    share = functional.interpolate(inside.float(), IMPLANT_PX, mode="area")[:, 0]
    mean = functional.interpolate(rois, IMPLANT_PX, mode="area")[:, 0] / share.clamp(min=1e-6)
    coded = ((mean * 254).round().clamp(0, 254) + 1) * (share >= 0.5)
    return np.asarray(coded.to(torch.uint8))


def save_implants(path: Path, network: ImplantNetwork, limits: ImplantLimits, description: Mapping[str, Any]) -> None:
    """Write an implant network with its limits as weights of kind "implants", so that other graders can use it.

    Args:
        path: safetensors file; its description is written beside it.
        network: trained.
        limits: for its probability.
        description: what it was trained on.
    """
    tensors = {f"{NETWORK_KEY}.{key}": value for key, value in network.state_dict().items()}
    tensors |= {CERTAIN_KEY: torch.tensor(limits.certain), POSSIBLE_KEY: torch.tensor(limits.possible)}
    save_weights(path, tensors, {"name": path.stem, "kind": "implants", **description})


def load_implants(path: Path) -> tuple[ImplantNetwork, ImplantLimits]:
    """The implant network and its limits, from weights of kind "implants" or from the quality control of a grader.

    Raises:
        WeightsError: the weights are missing, damaged or of another kind, or have no implant network with two limits.
    """
    kind = read_description(path)["kind"]
    weights = load_weights(path, "implants" if kind == "implants" else "grader")
    network = ImplantNetwork.matching(weights.part(NETWORK_KEY))
    if not {CERTAIN_KEY, POSSIBLE_KEY} <= weights.tensors.keys():
        raise WeightsError(
            f"The weights {weights.name} have no implant network with two limits; give weights of kind implants, or "
            "of a grader with quality control of this version."
        )
    load_part(network, weights, NETWORK_KEY)
    limits = ImplantLimits(possible=float(weights.tensors[POSSIBLE_KEY]), certain=float(weights.tensors[CERTAIN_KEY]))
    return network, limits
