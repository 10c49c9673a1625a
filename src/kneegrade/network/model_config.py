"""`ModelConfig`: which trunk, pooling and heads a grading network has."""

from dataclasses import dataclass
from typing import Literal, get_args

from kneegrade.anatomy.landmark_scheme import COMPARTMENTS, NUM_LANDMARKS
from kneegrade.errors import WeightsError
from kneegrade.network.efficientnet import ARCHITECTURES as EFFICIENTNETS
from kneegrade.network.input_normalization import InputNormalization
from kneegrade.network.resnet import ARCHITECTURES as RESNETS
from kneegrade.schema import Target
from kneegrade.weights import Weights

Pooling = Literal["keypoints", "global", "keypoints+global", "siamese"]
Heads = Literal["softmax", "ordinal"]
TRUNKS = (*RESNETS, *EFFICIENTNETS)


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a grading network; the defaults are the paper's keypoint pooling network.

    Attributes:
        trunk: "resnet18", "resnet34", "resnet50", "efficientnet_lite0" or "efficientnet_lite2".
        pooling: where the feature map is read. "keypoints": at the 74 landmarks (paper, 2.1). "global": its mean (the
            paper's baselines). "keypoints+global": both, with the mean as one more point that every head reads.
            "siamese": the means of two maps, of a lateral patch and of a mirrored medial patch (Tiulpin et al. 2018);
            see `pooling.siamese_patches`.
        stages: stages of the trunk: 3 ends at stride 16 (`layer3` of a ResNet), 4 at stride 32 (`layer4`). A ResNet may
            have 1 to 4, an EfficientNet-Lite 3 or 4.
        reduce: None for the paper's linear heads on all channels, else the number of channels after a linear reduction
            with ReLU that all points share. Features are masked after the reduction, so the sum over points is exact.
        heads: "softmax", or "ordinal" for conditional logits (CORN).
        regression: whether every grade has a second, linear head that predicts it as a number (Antony et al. 2017).
        roi_px: side of the input in pixels, which are the unit of the landmarks.
        input_normalization: normalisation of the grey values in [0, 1], after they are repeated to three channels.
            "none": none. "imagenet": subtract the mean and divide by the standard deviation of ImageNet's channels, as
            torchvision's weights expect. "symmetric": (x - 0.5) / 0.5, as TensorFlow's weights expect. "per_image":
            mean 0 and standard deviation 0.5 in every image. In the description of weights, a missing key means "none".
        mask_outside: whether pixels outside the film (0 in the crop) are left out of the mean of the map and of the
            normalisation of every image. The paper's network does not know them.

    Raises:
        ValueError: unknown trunk or input normalization, a number of stages that the trunk does not have, or a trunk
            whose landmarks and mean have different numbers of channels with "keypoints+global" pooling and without
            `reduce`.
    """

    trunk: str = "resnet50"
    pooling: Pooling = "keypoints"
    stages: int = 3
    reduce: int | None = None
    heads: Heads = "softmax"
    regression: bool = False
    roi_px: int = 320
    input_normalization: InputNormalization = "none"
    mask_outside: bool = False

    def __post_init__(self) -> None:
        known = get_args(InputNormalization)
        if self.input_normalization not in known:
            raise ValueError(f"input_normalization is {self.input_normalization!r}; expected one of {known}")
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk is {self.trunk!r}; expected one of {TRUNKS}")
        stages = (3, 4) if self.trunk in EFFICIENTNETS else (1, 2, 3, 4)
        if self.stages not in stages:
            raise ValueError(f"{self.trunk} with stages {self.stages}; expected one of {stages}")
        if self.trunk in EFFICIENTNETS and self.pooling == "keypoints+global" and self.reduce is None:
            raise ValueError(f"{self.trunk} with keypoints+global pooling needs reduce, the number of channels to read")

    @property
    def num_read_points(self) -> int:
        """Number P of points at which the feature map is read."""
        return {"keypoints": NUM_LANDMARKS, "global": 1, "keypoints+global": NUM_LANDMARKS + 1, "siamese": 2}[
            self.pooling
        ]

    def read_points(self, target: Target) -> tuple[int, ...]:
        """Return the indices of the points that the head of a grade reads."""
        if self.pooling == "keypoints":
            return COMPARTMENTS[target.compartment]
        if self.pooling == "keypoints+global":
            return (*COMPARTMENTS[target.compartment], NUM_LANDMARKS)
        return tuple(range(self.num_read_points))


def model_config_of(weights: Weights) -> ModelConfig:
    """Return the configuration of the network in a grader's weights; missing keys have their defaults.

    Raises:
        WeightsError: the description of the weights has no configuration that this version knows.
    """
    try:
        return ModelConfig(**weights.description["model"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"The weights {weights.name} do not fit this version of kneegrade; use weights made for it."
        raise WeightsError(message) from error
