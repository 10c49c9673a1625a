"""`Ensemble`: several grading networks as one, whose logits and evidence are the means of its members'."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.errors import WeightsError
from kneegrade.network.model import Attribution, GradeLogits, GradingNetwork
from kneegrade.network.model_config import ModelConfig, model_config_of
from kneegrade.schema import TARGETS
from kneegrade.weights import Weights, load_part
from kneegrade.weights.compute import Compute


class Ensemble(nn.Module):
    """Grading networks of the same heads and read points; their logits are averaged before calibration.

    A crop has the side of the largest member. Smaller members get it downsampled.

    Args:
        configs: of the members, two or more, with softmax heads and the same pooling.

    Attributes:
        config: of the member with the largest input.
        members: the networks.

    Raises:
        ValueError: fewer than two members, or members that cannot be averaged.
    """

    def __init__(self, configs: Sequence[ModelConfig]) -> None:
        super().__init__()
        if len(configs) < 2 or any(c.heads != "softmax" or c.pooling != configs[0].pooling for c in configs):
            raise ValueError("an ensemble has two or more members with softmax heads and the same pooling")
        self.config = max(configs, key=lambda config: config.roi_px)
        self.members = nn.ModuleList(GradingNetwork(config) for config in configs)

    def networks(self) -> list[GradingNetwork]:
        """Return the members."""
        return [cast(GradingNetwork, member) for member in self.members]

    def forward(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor, inside: Tensor | None = None) -> GradeLogits:
        """Return the mean logits, and the features of all members side by side, (B, P, R_1 + R_2 + …).

        Args:
            roi: (B, 1, S, S) in [0, 1], bone bright, lateral on the left of the image.
            landmarks_px: (B, 74, 2), (x, y) in pixels of `roi`.
            visible: (B, 74) bool.
            inside: (B, 1, S, S) bool, pixels on the film; None: all.
        """
        outputs = [
            member(*resized(roi, landmarks_px, inside, member.config.roi_px, visible)) for member in self.networks()
        ]
        logits = {t.name: torch.stack([output.logits[t.name] for output in outputs]).mean(0) for t in TARGETS}
        return GradeLogits(logits, torch.cat([output.pooled for output in outputs], 2), {})

    @torch.no_grad()
    def attribute(self, pooled: Tensor) -> Attribution:
        """Return the means of the members' summands, whose sum over points is exactly the centred mean logit.

        Args:
            pooled: (B, P, R_1 + R_2 + …) from `forward`.
        """
        widths = [member.feature_mean.shape[1] for member in self.networks()]
        parts = [
            member.attribute(part) for member, part in zip(self.networks(), torch.split(pooled, widths, 2), strict=True)
        ]
        return Attribution(
            {t.name: torch.stack([part.contributions[t.name] for part in parts]).mean(0) for t in TARGETS},
            {t.name: torch.stack([part.constant[t.name] for part in parts]).mean(0) for t in TARGETS},
        )

    def optimized_for_inference(self, device: str = "cpu") -> "Ensemble":
        """Return this ensemble with members for predictions only; see `GradingNetwork.optimized_for_inference`."""
        for member in self.networks():
            member.optimized_for_inference(device)
        return self

    def prepared(self, compute: Compute) -> "Ensemble":
        """Return this ensemble with members for grading; see `GradingNetwork.prepared`."""
        for member in self.networks():
            member.prepared(compute)
        return self.requires_grad_(False).eval()


def resized(
    roi: Tensor, landmarks_px: Tensor, inside: Tensor | None, size_px: int, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the inputs of a network with another input side: crop, landmarks, visibility and film.

    Args:
        roi: (B, 1, S, S).
        landmarks_px: (B, 74, 2) in pixels of `roi`, centre of the first pixel at (0, 0).
        inside: (B, 1, S, S) bool, or None.
        size_px: the other side.
        visible: (B, 74) bool, returned as it is.
    """
    side = roi.shape[-1]
    if side == size_px:
        return roi, landmarks_px, visible, inside
    smaller = functional.interpolate(roi, (size_px, size_px), mode="bilinear", antialias=True)
    points = (landmarks_px + 0.5) * (size_px / side) - 0.5
    if inside is not None:
        inside = functional.adaptive_avg_pool2d(inside.float(), size_px) > 0.5
    return smaller.contiguous(memory_format=torch.channels_last), points, visible, inside


def load_report_network(weights: Weights) -> GradingNetwork | Ensemble:
    """Return the network of the weights, which gives all that a report needs.

    Raises:
        WeightsError: it does not, or the weights do not fit this version.
    """
    config = model_config_of(weights)
    if not config.pooling.startswith("keypoints") or config.heads != "softmax":
        raise WeightsError(
            f"The weights {weights.name} have {config.pooling} pooling and {config.heads} heads. A report needs "
            "keypoint pooling and softmax heads, because its evidence is a sum over landmarks. `kneegrade evaluate` "
            "accepts these weights with a manifest that has landmarks."
        )
    return load_network(weights)


def load_network(weights: Weights) -> GradingNetwork | Ensemble:
    """Return the network in a grader's weights, on the CPU, in evaluation mode; an ensemble if it has `members`.

    Raises:
        WeightsError: as in `model_config_of`, or the tensors do not fit the network.
    """
    members = weights.description.get("members")
    if members is None:
        network: GradingNetwork | Ensemble = GradingNetwork(model_config_of(weights))
    else:
        try:
            network = Ensemble([ModelConfig(**config) for config in members])
        except (TypeError, ValueError) as error:
            message = f"The weights {weights.name} do not fit this version of kneegrade; use weights made for it."
            raise WeightsError(message) from error
    load_part(network, weights, "network")
    return network.eval()
