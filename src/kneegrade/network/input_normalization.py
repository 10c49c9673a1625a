"""What all trunks share: the normalisation of their input, and the description of their feature maps.

Grey values of one channel are repeated to the three channels that a trunk was trained on, and normalised.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

InputNormalization = Literal["none", "imagenet", "symmetric", "per_image"]
Channels = tuple[float, float, float]
FIXED: dict[str, tuple[Channels, Channels]] = {  # mean and standard deviation of each channel
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
PER_IMAGE_STD = 0.5  # standard deviation of an image after "per_image"
LEAST_STD = 1e-3


@dataclass(frozen=True)
class Level:
    """A feature map: C channels, stride, and the pixel on which its first cell is centred."""

    channels: int
    stride: int
    offset: int


class NormalizedTrunk(nn.Module):
    """Base of the trunks: repeats the channel and normalises it.

    Args:
        input_normalization: see `ModelConfig`. Mean and standard deviation are the buffers `input_mean` and
            `input_std`, (1, 3, 1, 1). They are not part of the state dict, because the configuration that is saved
            beside it defines them.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, input_normalization: InputNormalization) -> None:
        super().__init__()
        self.input_normalization = input_normalization
        mean, std = FIXED["none" if input_normalization == "per_image" else input_normalization]
        self.register_buffer("input_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("input_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalized(self, image: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the input of the first convolution: (B, 1, H, W) in [0, 1] → (B, 3, H, W).

        Args:
            image: grey values.
            inside: (B, 1, H, W) bool, pixels on the film; None: all. "per_image" takes mean and standard deviation of
                these pixels, and sets the others to 0, the mean.
        """
        if self.input_normalization == "per_image":
            return per_image(image, inside).expand(-1, 3, -1, -1)
        image = image.expand(-1, 3, -1, -1)
        if self.input_normalization == "none":  # (x - 0) / 1 would give the same numbers, but copy the batch
            return image
        return (image - self.input_mean) / self.input_std


def per_image(image: Tensor, inside: Tensor | None) -> Tensor:
    """Return the images with mean 0 and standard deviation 0.5 on the film, and 0 outside it.

    Args:
        image: (B, 1, H, W).
        inside: (B, 1, H, W) bool, pixels on the film; None: all.
    """
    weight = torch.ones_like(image) if inside is None else inside.to(image.dtype)
    number = weight.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (image * weight).sum((2, 3), keepdim=True) / number
    centred = (image - mean) * weight
    std = (centred.square().sum((2, 3), keepdim=True) / number).sqrt()
    return centred / (std + LEAST_STD) * PER_IMAGE_STD
