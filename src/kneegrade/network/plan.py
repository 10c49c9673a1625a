"""What a network is made of: `NetworkPlan`, from which one class builds every row of the paper's tables."""

from dataclasses import dataclass
from typing import Literal, get_args

from kneegrade.anatomy.landmarks import COMPARTMENTS, NUM_LANDMARKS
from kneegrade.schema import Target

Pooling = Literal["keypoints", "global", "keypoints+global", "siamese"]
Heads = Literal["softmax", "ordinal"]
InputNormalization = Literal["none", "imagenet"]


@dataclass(frozen=True)
class NetworkPlan:
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
    def num_places(self) -> int:
        """How many feature vectors the heads may read: P."""
        return {"keypoints": NUM_LANDMARKS, "global": 1, "keypoints+global": NUM_LANDMARKS + 1, "siamese": 2}[
            self.pooling
        ]

    def places(self, target: Target) -> tuple[int, ...]:
        """Which of the P places the head of a grade reads."""
        if self.pooling == "keypoints":
            return COMPARTMENTS[target.compartment]
        if self.pooling == "keypoints+global":
            return (*COMPARTMENTS[target.compartment], NUM_LANDMARKS)
        return tuple(range(self.num_places))
