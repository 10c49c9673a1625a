"""Augmentation of batches of crops. The random draw is separate from its deterministic application.

`make_params` draws the parameters of every knee from an explicit generator. `crop_matrices` turns them into one affine
matrix per knee, which `augment_images` applies to the image and `augment_landmarks` to the landmarks. With
`identity_params` the result is the crop that inference uses.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.geometry import sample_affine, stretch_contrast
from kneegrade.imaging.styles import StyleParams, apply_styles, make_style_params
from kneegrade.training.config import Augmentation


@dataclass(frozen=True)
class AugmentationParams:
    """Augmentation parameters of B knees.

    Attributes:
        shift: (B, 2) shift (x, y) as a fraction of the crop's side.
        angle_rad: (B,) rotation.
        scale: (B,) factor.
        gamma: (B,) exponent on grey values.
        noise: (B,) standard deviation of the noise added to grey values.
        noise_seed: seed of the noise.
        blur: (B,) standard deviation of a Gaussian as a fraction of the crop's side, 0 for about half of the knees.
        shade: (B, 1, 4, 4) natural logarithm of the factor on grey values, at the knots of a bicubic interpolation.
        jitter: (B, 74, 2) offset of the landmarks as a fraction of the crop's side.
        dropped: (B, 74) bool, landmarks that are hidden from the network.
        anisotropy: (B,) factor of the size along x relative to that along y.
        styles: processing styles; None: no knee has one.
    """

    shift: Tensor
    angle_rad: Tensor
    scale: Tensor
    gamma: Tensor
    noise: Tensor
    noise_seed: int
    blur: Tensor
    shade: Tensor
    jitter: Tensor
    dropped: Tensor
    anisotropy: Tensor
    styles: StyleParams | None = None

    def to(self, device: torch.device | str) -> "AugmentationParams":
        """The parameters on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved, styles=None if self.styles is None else self.styles.to(device))


def make_params(batch: int, recipe: Augmentation, generator: torch.Generator) -> AugmentationParams:
    """Random parameters for a batch.

    Shift, angle and scale are uniform, as in the paper; gamma is log-uniform, landmark jitter is normal.

    Args:
        batch: number B of knees.
        recipe: section of the recipe.
        generator: source of all random numbers.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    params = AugmentationParams(
        shift=uniform(batch, 2) * recipe.translation_px / 320,
        angle_rad=uniform(batch) * math.radians(recipe.rotation_deg),
        scale=1 + uniform(batch) * recipe.scale,
        gamma=torch.exp(uniform(batch) * recipe.log_gamma),
        noise=torch.rand(batch, generator=generator) * recipe.noise,
        noise_seed=int(torch.randint(2**31, (1,), generator=generator)),
        jitter=torch.randn(batch, 74, 2, generator=generator) * recipe.landmark_jitter_px / 320,
        dropped=torch.rand(batch, 74, generator=generator) < recipe.landmark_dropout,
        blur=uniform(batch).clamp(min=0) * recipe.blur_px / 320,
        shade=uniform(batch, 1, 4, 4) * recipe.shade,
        anisotropy=torch.ones(batch),
    )
    # Drawn last and only if used, so that older recipes draw the numbers that they drew before.
    if recipe.anisotropy:
        params = replace(params, anisotropy=1 + uniform(batch) * recipe.anisotropy)
    if recipe.styles:
        styles = make_style_params(batch, generator, strength=recipe.style_strength, probability=recipe.styles)
        params = replace(params, styles=styles)
    return params


def identity_params(batch: int) -> AugmentationParams:
    """Parameters for B knees that change nothing."""
    return make_params(batch, Augmentation(translation_px=0, rotation_deg=0, scale=0), torch.Generator().manual_seed(0))


def crop_matrices(frames: Tensor, params: AugmentationParams, size_px: int) -> Tensor:
    """(B, 2, 3) matrices from pixels of the augmented crop to pixels of the dataset image.

    Args:
        frames: (B, 2, 3) matrices from pixels of the crop without augmentation to pixels of the dataset image.
        params: augmentation parameters.
        size_px: side S of the crop.
    """
    cos, sin = torch.cos(params.angle_rad) * params.scale, torch.sin(params.angle_rad) * params.scale
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    stretch = params.anisotropy.sqrt()
    rotation = rotation * torch.stack([stretch, 1 / stretch], dim=1).unsqueeze(1)  # columns: crop x, crop y
    middle = (size_px - 1) / 2
    offset = middle + params.shift * size_px - rotation.sum(2) * middle
    linear = frames[:, :, :2]
    return torch.cat([linear @ rotation, linear @ offset.unsqueeze(2) + frames[:, :, 2:]], dim=2)


def augment_images(images: Tensor, matrices: Tensor, params: AugmentationParams, size_px: int) -> Tensor:
    """Augmented crops (B, 1, S, S), float32 in [0, 1], 0 outside the film; see `augment_covered_images`."""
    return augment_covered_images(images, matrices, params, size_px)[0]


def augment_covered_images(
    images: Tensor, matrices: Tensor, params: AugmentationParams, size_px: int
) -> tuple[Tensor, Tensor]:
    """Augmented crops and their coverage.

    The contrast is stretched, the styles are applied, and the contrast of crops with a style is stretched again, as
    inference does with a picture that comes in that style. Blur, shade, gamma and noise follow.

    Args:
        images: (B, 384, 384) uint8 images of a dataset, 0 outside the film, 1 … 255 on it.
        matrices: (B, 2, 3) from `crop_matrices`.
        params: augmentation parameters.
        size_px: side S of the crops.

    Returns:
        Crops (B, 1, S, S), float32 in [0, 1], 0 outside the film, and a mask (B, 1, S, S) bool, True where the film, or
        what collimation leaves of it, covers the crop.
    """
    crops, _ = sample_affine(images.unsqueeze(1).float(), matrices, size_px)
    covered = crops > 0.5  # 0 means outside the film
    crops = stretch_contrast((crops - 1).clamp(min=0) / 254, covered)
    if params.styles is not None:
        crops, covered = _styled(crops, covered, params.styles)
    if params.blur.any():
        crops = _blurred(crops, params.blur * size_px)
    if params.shade.any():
        crops = crops * functional.interpolate(params.shade, size_px, mode="bicubic", align_corners=True).exp()
    crops = crops.clamp(0, 1) ** params.gamma.view(-1, 1, 1, 1)
    if params.noise.any():
        generator = torch.Generator(crops.device).manual_seed(params.noise_seed)
        noise = torch.randn(crops.shape, generator=generator, device=crops.device)
        crops = crops + noise * params.noise.view(-1, 1, 1, 1)
    return crops.clamp(0, 1) * covered, covered


def _styled(crops: Tensor, covered: Tensor, styles: StyleParams) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, S, S) in their styles with stretched contrast, and their coverage; others are left as they are."""
    rows = styles.styled.nonzero().flatten()
    if len(rows):
        part, inside = apply_styles(crops[rows], covered[rows], styles.select(rows))
        crops, covered = crops.clone(), covered.clone()
        crops[rows], covered[rows] = stretch_contrast(part, inside), inside
    return crops, covered


def _blurred(crops: Tensor, sigma_px: Tensor) -> Tensor:
    """Crops (B, 1, S, S), each convolved with a Gaussian of its own standard deviation (B,); 0 means no blur."""
    reach = max(1, math.ceil(2.5 * float(sigma_px.max())))
    offsets = torch.arange(-reach, reach + 1, device=crops.device)
    kernel = functional.softmax(-(offsets**2) / (2 * sigma_px.clamp(min=1e-2)[:, None] ** 2), dim=1)
    stacked = functional.pad(crops.transpose(0, 1), (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(stacked, kernel[:, None, :, None], groups=len(crops))
    return functional.conv2d(rows, kernel[:, None, None, :], groups=len(crops)).transpose(0, 1)


def augment_landmarks(
    landmarks_px: Tensor, visible: Tensor, matrices: Tensor, params: AugmentationParams, size_px: int
) -> tuple[Tensor, Tensor]:
    """Landmarks (B, 74, 2) in pixels of the augmented crop, 0 where unknown, and their visibility (B, 74) bool.

    Args:
        landmarks_px: (B, 74, 2) in pixels of the dataset image, NaN where unknown.
        visible: (B, 74) bool, known and inside the film.
        matrices: (B, 2, 3) from `crop_matrices`.
        params: augmentation parameters.
        size_px: side S of the crop.
    """
    inverse = torch.linalg.inv(matrices[:, :, :2])
    points = (landmarks_px - matrices[:, :, 2].unsqueeze(1)) @ inverse.transpose(1, 2) + params.jitter * size_px
    inside = ((points >= 0) & (points <= size_px - 1)).all(-1)
    return points.nan_to_num(0.0), visible & inside & ~params.dropped
