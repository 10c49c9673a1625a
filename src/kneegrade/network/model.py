"""The networks of Zheng et al., MICCAI 2021 (section 2.1), their baselines and ablations, as one class of parts.

A trunk's feature map is read at a number of places: for the keypoint pooling network (KPN) 74 bone-surface landmarks,
for a plain ResNet one, its mean. The grades of the whole joint (KL, both narrowings) read all places, each osteophyte
grade those of its own compartment; one linear head per grade. Since a head is linear in what was read, each logit is
an exact sum over places and a constant: `attribute` gives the summands.

What a network is made of: `ModelConfig`, from which one class builds every row of the paper's tables.

Linear heads, one per grade, and the two ways of turning their numbers into a distribution over grades.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.anatomy.landmark_scheme import COMPARTMENTS, NUM_LANDMARKS
from kneegrade.errors import WeightsError
from kneegrade.network.pooling import global_average, pool_at_landmarks, siamese_patches
from kneegrade.network.resnet import InputNormalization, Trunk
from kneegrade.schema import TARGETS, Target
from kneegrade.weights import Weights, load_part
from kneegrade.weights.fusion import fuse_batchnorm, has_native_bfloat16

Pooling = Literal["keypoints", "global", "keypoints+global", "siamese"]
Heads = Literal["softmax", "ordinal"]


@dataclass(frozen=True)
class ModelConfig:
    """Parts of a grading network; the defaults are the paper's keypoint pooling network.

    Attributes:
        trunk: "resnet18", "resnet34" or "resnet50".
        pooling: where the feature map is read. "keypoints": at the 74 landmarks (paper, 2.1). "global": its mean (the
            paper's baselines). "keypoints+global": both, the mean as one more place that every head reads. "siamese":
            the means of two maps, of a lateral patch and of a mirrored medial patch (Tiulpin et al. 2018); see
            `pooling.siamese_patches`.
        stages: residual stages of the trunk: 3 ends at `layer3` (stride 16), 4 at `layer4` (stride 32).
        reduce: None for the paper's linear heads on all channels, else the width of a 1×1 reduction with a rectifier
            that all places share. Masking follows the reduction, so the sum over places stays exact.
        heads: "softmax", or "ordinal" for conditional logits (CORN).
        regression: whether every grade has a second, linear head that predicts it as a number (Antony et al. 2017).
        roi_px: side of the input in pixels; the landmarks' unit.
        input_normalization: what the trunk does to grey values in [0, 1] after it has repeated them to three channels.
            "none": nothing. "imagenet": it subtracts the mean and divides by the standard deviation of ImageNet's
            channels, as torchvision's weights expect. A description without this key means "none".

    Raises:
        ValueError: an input normalization that is not known.
    """

    trunk: str = "resnet50"
    pooling: Pooling = "keypoints"
    stages: int = 3
    reduce: int | None = None
    heads: Heads = "softmax"
    regression: bool = False
    roi_px: int = 320
    input_normalization: InputNormalization = "none"

    def __post_init__(self) -> None:
        known = get_args(InputNormalization)
        if self.input_normalization not in known:
            raise ValueError(f"input_normalization is {self.input_normalization!r}; expected one of {known}")

    @property
    def num_read_points(self) -> int:
        """How many feature vectors the heads may read: P."""
        return {"keypoints": NUM_LANDMARKS, "global": 1, "keypoints+global": NUM_LANDMARKS + 1, "siamese": 2}[
            self.pooling
        ]

    def read_points(self, target: Target) -> tuple[int, ...]:
        """Which of the P places the head of a grade reads."""
        if self.pooling == "keypoints":
            return COMPARTMENTS[target.compartment]
        if self.pooling == "keypoints+global":
            return (*COMPARTMENTS[target.compartment], NUM_LANDMARKS)
        return tuple(range(self.num_read_points))


def grade_heads(plan: ModelConfig, width: int) -> nn.ModuleDict:
    """Per grade a linear map from all the features that it reads to its logits: classes of them, one less if ordinal.

    Args:
        plan: the network's.
        width: features per place.
    """
    fewer = 1 if plan.heads == "ordinal" else 0
    return nn.ModuleDict({t.name: nn.Linear(len(plan.read_points(t)) * width, t.classes - fewer) for t in TARGETS})


def regression_heads(plan: ModelConfig, width: int) -> nn.ModuleDict:
    """Per grade a linear map to one number, the grade itself (Antony et al. 2017)."""
    return nn.ModuleDict({t.name: nn.Linear(len(plan.read_points(t)) * width, 1) for t in TARGETS})


def read_heads(heads: nn.ModuleDict, pooled: Tensor, plan: ModelConfig) -> dict[str, Tensor]:
    """(B, P, R) features → grade name → (B, outputs of its head) float32."""
    return {
        t.name: heads[t.name](rearrange(pooled[:, list(plan.read_points(t))], "b p c -> b (p c)")).float()
        for t in TARGETS
    }


def head_weights(heads: nn.ModuleDict, name: str, places: int) -> tuple[Tensor, Tensor]:
    """Weights (outputs, places, R) and bias (outputs,) of one head, float32."""
    head = cast(nn.Linear, heads[name])
    return rearrange(head.weight.float(), "k (p c) -> k p c", p=places), head.bias.float()


def ordinal_log_probabilities(conditional: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Log-probabilities of the grades from conditional logits; their softmax is the distribution itself.

    z_k is the logit of "above k, given above k − 1": log P(y = k) = Σ_{j<k} log σ(z_j) + log σ(−z_k), the last term
    absent for the highest grade. Cross entropy with them is the loss of CORN (Shi, Cao and Raschka 2021).

    Args:
        conditional: grade name → (B, classes − 1).

    Example:
        >>> import torch
        >>> z = {"kl": torch.zeros(1, 4)}
        >>> ordinal_log_probabilities(z)["kl"].exp().tolist()
        [[0.5, 0.25, 0.125, 0.0625, 0.0625]]
    """
    result = {}
    for name, z in conditional.items():
        above = functional.pad(functional.logsigmoid(z).cumsum(1), (1, 0))  # log P(y >= k), k = 0 … K - 1
        stops = functional.pad(functional.logsigmoid(-z), (0, 1))
        result[name] = above + stops
    return result


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

    def __init__(self, plan: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = plan = plan or ModelConfig()
        self.in_bfloat16 = False
        self.trunk = Trunk(plan.trunk, plan.stages, input_normalization=plan.input_normalization)
        width = self.trunk.channels if plan.reduce is None else plan.reduce
        self.reduce = (
            None if plan.reduce is None else nn.Sequential(nn.Linear(self.trunk.channels, plan.reduce), nn.ReLU())
        )
        self.heads = grade_heads(plan, width)
        if plan.regression:
            self.regression = regression_heads(plan, width)
        self.register_buffer("feature_mean", torch.zeros(plan.num_read_points, width))

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
        numbers = read_heads(self.regression, pooled, self.config) if self.config.regression else {}
        return GradeLogits(self.classify(pooled), pooled, {name: value.squeeze(1) for name, value in numbers.items()})

    def _read(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, C) at the places, and which of them are seen (B, P)."""
        pooling = self.config.pooling
        always = visible.new_ones(len(roi), 2)
        if pooling == "siamese":
            both = global_average(self._features(siamese_patches(roi)))
            return rearrange(both, "(side b) 1 c -> b side c", side=2), always
        features = self._features(roi)  # (B, C, S/stride, S/stride)
        if pooling == "global":
            return global_average(features), always[:, :1]
        pooled = pool_at_landmarks(features, landmarks_px, visible, self.trunk.stride)
        if pooling == "keypoints":
            return pooled, visible
        return torch.cat([pooled, global_average(features)], 1), torch.cat([visible, always[:, :1]], 1)

    def _features(self, picture: Tensor) -> Tensor:
        native = torch.autocast(picture.device.type, torch.bfloat16) if self.in_bfloat16 else nullcontext()
        with native:
            features: Tensor = self.trunk(picture)
        return features

    def optimized_for_inference(self, device: str = "cpu") -> "GradingNetwork":
        """This network for predictions only: the trunk without normalisations, in bfloat16 on processors that have it.

        Logits move by some hundredths in bfloat16; what the heads read and how they sum it stays float32 and exact.
        """
        if device == "cpu":
            self.trunk = fuse_batchnorm(self.trunk)
            self.in_bfloat16 = has_native_bfloat16()
        return self

    def classify(self, pooled: Tensor) -> dict[str, Tensor]:
        """Logits from what was read: (B, P, R) → grade name → (B, classes)."""
        logits = read_heads(self.heads, pooled, self.config)
        return ordinal_log_probabilities(logits) if self.config.heads == "ordinal" else logits

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
            places = list(self.config.read_points(target))
            weight, bias = head_weights(self.heads, target.name, len(places))
            if self.config.heads == "softmax":
                weight, bias = weight - weight.mean(0), bias - bias.mean()
            mean = self.feature_mean[places]
            shares = torch.zeros(*pooled.shape[:2], len(bias), device=pooled.device)
            shares[:, places] = torch.einsum("bpc,kpc->bpk", pooled[:, places] - mean, weight)
            contributions[target.name] = shares
            constant[target.name] = bias + torch.einsum("pc,kpc->k", mean, weight)
        return Attribution(contributions, constant)


def model_config_of(held: Weights) -> ModelConfig:
    """What the network in a grader's weights is made of; keys that their description lacks have their defaults.

    Raises:
        WeightsError: their description names no plan of this version.
    """
    try:
        return ModelConfig(**held.description["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The weights {held.name} do not fit this version of kneegrade.") from error


def load_network(held: Weights) -> GradingNetwork:
    """The network in a grader's weights, on the CPU, for predictions.

    Raises:
        WeightsError: as `model_config_of`, or the tensors are not the network's.
    """
    network = GradingNetwork(model_config_of(held))
    load_part(network, held, "network")
    return network.eval()
