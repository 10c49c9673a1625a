"""The grading networks of Zheng et al., MICCAI 2021 (section 2.1), their baselines and ablations, as one class.

1. A trunk (the backbone) turns the crop of a knee into a feature map, (B, C, h, w). The paper's is a ResNet; an
   EfficientNet-Lite returns several maps of different strides.
2. The feature map is read at P points: for the keypoint pooling network (KPN) of the paper at the 74 landmarks, for a
   plain ResNet at one "point", the mean of the map. The result is (B, P, C), or (B, P, R) after the optional reduction
   of the channels from C to R (R = C without it). Landmarks read the maps of strides 8 and 16 of an EfficientNet-Lite,
   concatenated, and the mean is that of its last map.
3. Each grade has a linear head. The grades of the whole joint (KL, both narrowings) read all points, each osteophyte
   grade reads the points of its compartment.

Because each head is linear in the features, a logit is an exact sum over points plus a constant; `attribute` returns
these summands. `ModelConfig` selects the parts, so that one class covers every row of the paper's tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.network.efficientnet import ARCHITECTURES as EFFICIENTNETS
from kneegrade.network.efficientnet import EfficientNetTrunk
from kneegrade.network.model_config import ModelConfig
from kneegrade.network.pooling import global_average, masked_average, pool_at_landmarks, siamese_patches
from kneegrade.network.resnet import Trunk
from kneegrade.schema import TARGETS
from kneegrade.weights.compute import Compute
from kneegrade.weights.inference import fuse_batchnorm


@dataclass(frozen=True)
class GradeLogits:
    """Output of the network for a batch of knees.

    Attributes:
        logits: grade name → (B, classes) float32; their softmax is the distribution over the grades.
        pooled: (B, P, R) float32, features that the heads read at each point; zero at a landmark that is not visible.
        numbers: grade name → (B,) float32, prediction of the regression head; empty without regression heads.
    """

    logits: Mapping[str, Tensor]
    pooled: Tensor
    numbers: Mapping[str, Tensor]


@dataclass(frozen=True)
class Attribution:
    """Exact summands of the class-centred logits of a batch.

    Attributes:
        contributions: grade name → (B, P, classes); zero for points that the grade does not read.
        constant: grade name → (classes,), class-centred bias plus the contribution of the mean features.
    """

    contributions: Mapping[str, Tensor]
    constant: Mapping[str, Tensor]


class GradingNetwork(nn.Module):
    """Network that predicts the seven grades from the crop of a knee and its landmarks.

    Args:
        config: of the network; the paper's keypoint pooling network by default.
    """

    feature_mean: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        build = EfficientNetTrunk if config.trunk in EFFICIENTNETS else Trunk
        trunk = build(config.trunk, config.stages, input_normalization=config.input_normalization)
        self.trunk = trunk
        self.landmark_levels = trunk.levels[: trunk.landmark_levels]
        at_landmarks = sum(level.channels for level in self.landmark_levels)
        in_mean = trunk.levels[-1].channels
        channels = at_landmarks if config.pooling.startswith("keypoints") else in_mean  # C
        width = channels if config.reduce is None else config.reduce  # R
        self.reduce = None if config.reduce is None else _reduction(channels, width)
        self.reduce_mean = (
            _reduction(in_mean, width) if config.pooling == "keypoints+global" and in_mean != channels else None
        )
        self.heads = grade_heads(config, width)
        if config.regression:
            self.regression = regression_heads(config, width)
        self.register_buffer("feature_mean", torch.zeros(config.num_read_points, width))  # (P, R)

    def forward(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor, inside: Tensor | None = None) -> GradeLogits:
        """Return the logits of the seven grades.

        Args:
            roi: (B, 1, S, S) in [0, 1], bone bright, lateral on the left of the image.
            landmarks_px: (B, 74, 2), (x, y) in pixels of `roi`; used by networks that pool at landmarks.
            visible: (B, 74) bool, likewise.
            inside: (B, 1, S, S) bool, pixels on the film; used with `mask_outside`. None: all.
        """
        inside = inside if self.config.mask_outside else None
        pooled = self._pool(roi, landmarks_px, visible, inside)  # (B, P, R)
        numbers = read_heads(self.regression, pooled, self.config) if self.config.regression else {}
        return GradeLogits(self.classify(pooled), pooled, {name: value.squeeze(1) for name, value in numbers.items()})

    def _pool(self, roi: Tensor, landmarks_px: Tensor, visible: Tensor, inside: Tensor | None) -> Tensor:
        """Return the features that the heads read at each point, (B, P, R)."""
        pooling = self.config.pooling
        always = visible.new_ones(len(roi), 2)
        if pooling == "siamese":
            both = global_average(self._maps(siamese_patches(roi), None)[-1])  # (2·B, 1, C)
            return self._reduced(rearrange(both, "(side b) 1 c -> b side c", side=2), always)
        maps = self._maps(roi, inside)  # (B, C, S/stride, S/stride) each
        if pooling == "global":
            return self._reduced(masked_average(maps[-1], inside), always[:, :1])
        at_landmarks = torch.cat([
            pool_at_landmarks(features, landmarks_px, visible, level.stride, level.offset)
            for features, level in zip(maps, self.landmark_levels, strict=False)
        ], 2)  # (B, 74, C)  # fmt: skip
        if pooling == "keypoints":
            return self._reduced(at_landmarks, visible)
        mean = masked_average(maps[-1], inside)  # (B, 1, C)
        if self.reduce_mean is None:
            return self._reduced(torch.cat([at_landmarks, mean], 1), torch.cat([visible, always[:, :1]], 1))
        return torch.cat([self._reduced(at_landmarks, visible), self.reduce_mean(mean).float()], 1)

    def _reduced(self, pooled: Tensor, mask: Tensor) -> Tensor:
        """Return (B, P, R) of (B, P, C), zero at points that are not visible, (B, P)."""
        if self.reduce is None:
            return pooled
        # Masked again, because the bias of the reduction makes the zeros of invisible landmarks non-zero.
        reduced: Tensor = self.reduce(pooled).float() * mask.unsqueeze(-1)
        return reduced

    def _maps(self, image: Tensor, inside: Tensor | None) -> tuple[Tensor, ...]:
        maps: Tensor | tuple[Tensor, ...] = self.trunk(*([image] if inside is None else [image, inside]))
        return maps if isinstance(maps, tuple) else (maps,)

    def classify(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return the logits for pooled features: (B, P, R) → grade name → (B, classes)."""
        logits = read_heads(self.heads, pooled, self.config)
        return ordinal_log_probabilities(logits) if self.config.heads == "ordinal" else logits

    @torch.no_grad()
    def attribute(self, pooled: Tensor) -> Attribution:
        r"""Return the summands of the class-centred logits over the points.

        With w̃ the weights of the head minus their mean over the classes, b̃ the bias centred likewise, h_p the features
        at point p and m their means over the training set:

            logit_c − mean_c logit = b̃_c + Σ_p w̃_{p,c}·m_p + Σ_p w̃_{p,c}·(h_p − m_p).

        The summands of the last sum are `contributions`, the rest is `constant`. Centring removes the constant that
        softmax logits leave undetermined. Conditional logits of ordinal heads have no such constant; for them the
        summands are those of the classes − 1 conditional logits, not centred.

        Args:
            pooled: (B, P, R) from `forward`.
        """
        deviation = (pooled - self.feature_mean).unsqueeze(1)  # (B, 1, P, R)
        contributions, constant = {}, {}
        for target in TARGETS:
            points = list(self.config.read_points(target))
            weight, bias = head_weights(self.heads, target.name, len(points))  # (K, p, R), (K,)
            if self.config.heads == "softmax":
                weight, bias = weight - weight.mean(0), bias - bias.mean()
            summands = pooled.new_zeros(*pooled.shape[:2], len(bias))  # (B, P, K)
            summands[:, points] = (deviation[:, :, points] * weight).sum(-1).transpose(1, 2)
            contributions[target.name] = summands
            constant[target.name] = bias + (self.feature_mean[points] * weight).sum((1, 2))
        return Attribution(contributions, constant)

    def optimized_for_inference(self, device: str = "cpu") -> "GradingNetwork":
        """Return this network, changed for predictions on large batches of crops, in float32.

        On the CPU, batch normalisation is fused into the convolutions.
        """
        if device == "cpu":
            self.trunk = fuse_batchnorm(self.trunk)
        return self

    def prepared(self, compute: Compute) -> "GradingNetwork":
        """Return this network, changed for grading with the given runtime, precision and threads.

        They concern the trunk. Pooled features and heads stay in torch and float32, so the attribution stays exact.

        Raises:
            ValueError: the network pools neither at landmarks nor over the whole crop.
        """
        if self.config.pooling == "siamese":
            raise ValueError("a network with siamese pooling cannot be prepared for grading")
        image = torch.zeros(1, 1, self.config.roi_px, self.config.roi_px)
        inputs = (image, torch.ones_like(image, dtype=torch.bool)) if self.config.mask_outside else (image,)
        self.trunk = compute.prepared(self.trunk, *inputs)  # type: ignore[assignment]
        return self.requires_grad_(False).eval().to(compute.device)


def _reduction(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, width), nn.ReLU())


def grade_heads(config: ModelConfig, width: int) -> nn.ModuleDict:
    """Return one linear head per grade, from the features that it reads to its logits.

    A softmax head has one output per class, an ordinal head one less.

    Args:
        config: of the network.
        width: R, features per point.
    """
    fewer = 1 if config.heads == "ordinal" else 0
    return nn.ModuleDict({t.name: nn.Linear(len(config.read_points(t)) * width, t.classes - fewer) for t in TARGETS})


def regression_heads(config: ModelConfig, width: int) -> nn.ModuleDict:
    """Return one linear head per grade that predicts the grade as a number (Antony et al. 2017)."""
    return nn.ModuleDict({t.name: nn.Linear(len(config.read_points(t)) * width, 1) for t in TARGETS})


def read_heads(heads: nn.ModuleDict, pooled: Tensor, config: ModelConfig) -> dict[str, Tensor]:
    """Return the outputs of all heads: (B, P, R) → grade name → (B, outputs) float32."""
    return {
        t.name: heads[t.name](rearrange(pooled[:, list(config.read_points(t))], "b p c -> b (p c)")).float()
        for t in TARGETS
    }


def head_weights(heads: nn.ModuleDict, name: str, points: int) -> tuple[Tensor, Tensor]:
    """Return weights (outputs, points, R) and bias (outputs,) of one head, float32."""
    head = cast(nn.Linear, heads[name])
    return rearrange(head.weight.float(), "k (p c) -> k p c", p=points), head.bias.float()


def ordinal_log_probabilities(conditional: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the log-probabilities of the grades from conditional logits; their softmax is the distribution itself.

    z_k is the logit of "above k, given above k − 1": log P(y = k) = Σ_{j<k} log σ(z_j) + log σ(−z_k), without the last
    term for the highest grade. Cross entropy with them is the loss of CORN (Shi, Cao and Raschka 2021).

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
        at_least_k = functional.pad(functional.logsigmoid(z).cumsum(1), (1, 0))  # log P(y >= k), k = 0 … K - 1
        not_above_k = functional.pad(functional.logsigmoid(-z), (0, 1))  # log P(y <= k | y >= k)
        result[name] = at_least_k + not_above_k
    return result
