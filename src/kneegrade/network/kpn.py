"""The keypoint pooling network (KPN) of Zheng et al., MICCAI 2021, section 2.1.

A trunk's feature map is read at 74 bone-surface landmarks; the grades of the whole joint (KL, both narrowings) read
all of them, each osteophyte grade reads those of its own compartment; one linear head per grade. Since a head is
linear in what was read, each logit is an exact sum over landmarks: `attribute` gives the summands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kneegrade.anatomy.landmarks import COMPARTMENTS, NUM_LANDMARKS
from kneegrade.network.pooling import pool_at_landmarks
from kneegrade.network.resnet import Trunk
from kneegrade.schema import TARGETS


@dataclass(frozen=True)
class GradeLogits:
    """What a network says of a batch of knees.

    Attributes:
        logits: grade name → (B, classes) float32.
        pooled: (B, 74, R) float32, what the heads read at each landmark; zero where it is not visible.
    """

    logits: Mapping[str, Tensor]
    pooled: Tensor


@dataclass(frozen=True)
class Attribution:
    """Exact summands of the class-centred logits of one batch.

    Attributes:
        contributions: grade name → (B, 74, classes); zero for landmarks that the grade does not read.
        remainder: grade name → (classes,): centred bias plus the share of the mean features.
    """

    contributions: Mapping[str, Tensor]
    remainder: Mapping[str, Tensor]


class KeypointPoolingNetwork(nn.Module):
    """Seven grades from a region of interest and its landmarks.

    Args:
        trunk: name of the ResNet; read after `layer3` (stride 16).
        reduce: None for the paper's linear heads on all channels, else the width of a 1×1 reduction with a rectifier
            that all landmarks share. Masking follows the reduction, so the sum over landmarks stays exact.
        roi_px: side of the input in pixels; the landmarks' unit.
    """

    feature_mean: Tensor

    def __init__(self, trunk: str = "resnet50", reduce: int | None = None, roi_px: int = 320) -> None:
        super().__init__()
        self.roi_px = roi_px
        self.trunk = Trunk(trunk, stages=3)
        width = self.trunk.channels if reduce is None else reduce
        self.reduce = None if reduce is None else nn.Sequential(nn.Linear(self.trunk.channels, reduce), nn.ReLU())
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(len(COMPARTMENTS[t.compartment]) * width, t.classes) for t in TARGETS}
        )
        self.register_buffer("feature_mean", torch.zeros(NUM_LANDMARKS, width))

    def forward(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor) -> GradeLogits:
        """Logits of the seven grades.

        Args:
            roi: (B, 1, S, S) in [0, 1], bone bright, lateral on the image's left.
            landmarks_px: (B, 74, 2) (x, y) in pixels of `roi`.
            visible: (B, 74) bool.
        """
        features = self.trunk(roi)  # (B, C, S/16, S/16)
        pooled = pool_at_landmarks(features, landmarks_px, visible, self.trunk.stride)  # (B, 74, C)
        if self.reduce is not None:
            pooled = self.reduce(pooled).float() * visible.unsqueeze(-1)  # (B, 74, R); a bias would show what is hidden
        return GradeLogits(self.classify(pooled), pooled)

    def classify(self, pooled: Tensor) -> dict[str, Tensor]:
        """Logits from what was read: (B, 74, R) → grade name → (B, classes)."""
        logits = {}
        for target in TARGETS:
            own = pooled[:, list(COMPARTMENTS[target.compartment])]
            logits[target.name] = self.heads[target.name](rearrange(own, "b n c -> b (n c)")).float()
        return logits

    @torch.no_grad()
    def attribute(self, pooled: Tensor) -> Attribution:
        r"""Summands of the class-centred logits, over landmarks.

        With w̃ the head's weights less their mean over classes, b̃ likewise and m the mean features of the training
        set: logit_c − mean_c logit = b̃_c + Σ_n w̃_{n,c}·m_n + Σ_n w̃_{n,c}·(h_n − m_n). The last sum is
        `contributions`, the rest `remainder`; a logit's free constant and free mean are gone.

        Args:
            pooled: (B, 74, R) from `forward`.
        """
        contributions, remainder = {}, {}
        for target in TARGETS:
            points = list(COMPARTMENTS[target.compartment])
            head = cast(nn.Linear, self.heads[target.name])
            weight = rearrange(head.weight.float(), "k (n c) -> k n c", n=len(points))
            weight = weight - weight.mean(0)
            bias = head.bias.float() - head.bias.float().mean()
            mean = self.feature_mean[points]
            shares = torch.zeros(*pooled.shape[:2], target.classes, device=pooled.device)
            shares[:, points] = torch.einsum("bnc,knc->bnk", pooled[:, points] - mean, weight)
            contributions[target.name] = shares
            remainder[target.name] = bias + torch.einsum("nc,knc->k", mean, weight)
        return Attribution(contributions, remainder)
