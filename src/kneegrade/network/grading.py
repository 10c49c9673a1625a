"""The networks of Zheng et al., MICCAI 2021 (section 2.1), their baselines and ablations, as one class of parts.

A trunk's feature map is read at a number of places: for the keypoint pooling network (KPN) 74 bone-surface landmarks,
for a plain ResNet one, its mean. The grades of the whole joint (KL, both narrowings) read all places, each osteophyte
grade those of its own compartment; one linear head per grade. Since a head is linear in what was read, each logit is
an exact sum over places and a constant: `attribute` gives the summands.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from kneegrade.errors import WeightsError
from kneegrade.network.heads import grade_heads, head_weights, ordinal_log_probabilities, read_heads, regression_heads
from kneegrade.network.plan import NetworkPlan
from kneegrade.network.pooling import pool_at_landmarks, pool_everywhere, siamese_patches
from kneegrade.network.resnet import Trunk
from kneegrade.schema import TARGETS
from kneegrade.weights import Weights, load_part
from kneegrade.weights.folding import computes_bfloat16, without_norms


@dataclass(frozen=True)
class GradeLogits:
    """What a network says of a batch of knees.

    Attributes:
        logits: grade name → (B, classes) float32; their softmax is the distribution over grades.
        pooled: (B, P, R) float32, what the heads read at each place; zero at a landmark that is not visible.
        numbers: grade name → (B,) float32, the grade as a regression head says it; empty without such heads.
    """

    logits: Mapping[str, Tensor]
    pooled: Tensor
    numbers: Mapping[str, Tensor]


@dataclass(frozen=True)
class Attribution:
    """Exact summands of the class-centred logits of one batch.

    Attributes:
        contributions: grade name → (B, P, classes); zero for places that the grade does not read.
        constant: grade name → (classes,): centred bias plus the share of the mean features.
    """

    contributions: Mapping[str, Tensor]
    constant: Mapping[str, Tensor]


class GradingNetwork(nn.Module):
    """Seven grades from a region of interest and its landmarks, made as a plan says."""

    feature_mean: Tensor

    def __init__(self, plan: NetworkPlan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or NetworkPlan()
        self.in_bfloat16 = False
        self.trunk = Trunk(plan.trunk, plan.stages, input_normalization=plan.input_normalization)
        width = self.trunk.channels if plan.reduce is None else plan.reduce
        self.reduce = (
            None if plan.reduce is None else nn.Sequential(nn.Linear(self.trunk.channels, plan.reduce), nn.ReLU())
        )
        self.heads = grade_heads(plan, width)
        if plan.regression:
            self.regression = regression_heads(plan, width)
        self.register_buffer("feature_mean", torch.zeros(plan.num_places, width))

    def forward(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor) -> GradeLogits:
        """Logits of the seven grades.

        Args:
            roi: (B, 1, S, S) in [0, 1], bone bright, lateral on the image's left.
            landmarks_px: (B, 74, 2) (x, y) in pixels of `roi`; only networks that pool at landmarks look at them.
            visible: (B, 74) bool.
        """
        pooled, mask = self._read(roi, landmarks_px, visible)  # (B, P, C)
        if self.reduce is not None:
            pooled = self.reduce(pooled).float() * mask.unsqueeze(-1)  # (B, P, R); a bias would show what is hidden
        numbers = read_heads(self.regression, pooled, self.plan) if self.plan.regression else {}
        return GradeLogits(self.classify(pooled), pooled, {name: value.squeeze(1) for name, value in numbers.items()})

    def _read(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, C) at the places, and which of them are seen (B, P)."""
        pooling = self.plan.pooling
        always = visible.new_ones(len(roi), 2)
        if pooling == "siamese":
            both = pool_everywhere(self._features(siamese_patches(roi)))
            return rearrange(both, "(side b) 1 c -> b side c", side=2), always
        features = self._features(roi)  # (B, C, S/stride, S/stride)
        if pooling == "global":
            return pool_everywhere(features), always[:, :1]
        pooled = pool_at_landmarks(features, landmarks_px, visible, self.trunk.stride)
        if pooling == "keypoints":
            return pooled, visible
        return torch.cat([pooled, pool_everywhere(features)], 1), torch.cat([visible, always[:, :1]], 1)

    def _features(self, picture: Tensor) -> Tensor:
        native = torch.autocast(picture.device.type, torch.bfloat16) if self.in_bfloat16 else nullcontext()
        with native:
            features: Tensor = self.trunk(picture)
        return features

    def quickened(self, device: str = "cpu") -> "GradingNetwork":
        """This network for predictions only: the trunk without normalisations, in bfloat16 on processors that have it.

        Logits move by some hundredths in bfloat16; what the heads read and how they sum it stays float32 and exact.
        """
        if device == "cpu":
            self.trunk = without_norms(self.trunk)
            self.in_bfloat16 = computes_bfloat16()
        return self

    def classify(self, pooled: Tensor) -> dict[str, Tensor]:
        """Logits from what was read: (B, P, R) → grade name → (B, classes)."""
        logits = read_heads(self.heads, pooled, self.plan)
        return ordinal_log_probabilities(logits) if self.plan.heads == "ordinal" else logits

    @torch.no_grad()
    def attribute(self, pooled: Tensor) -> Attribution:
        r"""Summands of the class-centred logits, over places.

        With w̃ the head's weights less their mean over classes, b̃ likewise and m the mean features of the training
        set: logit_c − mean_c logit = b̃_c + Σ_p w̃_{p,c}·m_p + Σ_p w̃_{p,c}·(h_p − m_p). The last sum is
        `contributions`, the rest `constant`; a logit's free constant and free mean are gone. Conditional logits of
        ordinal heads have no such constant: for them the summands are of the classes − 1 conditional logits, as read.

        Args:
            pooled: (B, P, R) from `forward`.
        """
        contributions, constant = {}, {}
        for target in TARGETS:
            places = list(self.plan.places(target))
            weight, bias = head_weights(self.heads, target.name, len(places))
            if self.plan.heads == "softmax":
                weight, bias = weight - weight.mean(0), bias - bias.mean()
            mean = self.feature_mean[places]
            shares = torch.zeros(*pooled.shape[:2], len(bias), device=pooled.device)
            shares[:, places] = torch.einsum("bpc,kpc->bpk", pooled[:, places] - mean, weight)
            contributions[target.name] = shares
            constant[target.name] = bias + torch.einsum("pc,kpc->k", mean, weight)
        return Attribution(contributions, constant)


def plan_of(held: Weights) -> NetworkPlan:
    """What the network in a grader's weights is made of; keys that their description lacks have their defaults.

    Raises:
        WeightsError: their description names no plan of this version.
    """
    try:
        return NetworkPlan(**held.description["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The weights {held.name} do not fit this version of kneegrade.") from error


def load_network(held: Weights) -> GradingNetwork:
    """The network in a grader's weights, on the CPU, for predictions.

    Raises:
        WeightsError: as `plan_of`, or the tensors are not the network's.
    """
    network = GradingNetwork(plan_of(held))
    load_part(network, held, "network")
    return network.eval()
