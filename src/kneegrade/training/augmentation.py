"""Augmentation of whole batches: the draw apart from the deed.

`make_params` draws the parameters of every knee from an explicit generator; the rest is deterministic: one matrix
(`crop_matrices`) serves picture (`augment_images`) and landmarks (`augment_landmarks`). With `identity_params` the
result is what inference sees.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.geometry import sample_affine, stretch_contrast
from kneegrade.training.config import Augmentation


@dataclass(frozen=True)
class AugmentationParams:
    """Drawn parameters for B knees.

    Attributes:
        shift: (B, 2) in units of the region's side.
        angle_rad: (B,).
        scale: (B,) factor.
        gamma: (B,) exponent on grey values.
        noise: (B,) standard deviation added to grey values.
        noise_seed: seed of the noise field.
        blur: (B,) standard deviation of a Gaussian in units of the region's side, 0 for about half of the knees.
        shade: (B, 1, 4, 4) logarithm of the factors that grey values are multiplied with, between these knots.
        jitter: (B, 74, 2) in units of the region's side.
        dropped: (B, 74) bool, landmarks hidden from the network.
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

    def to(self, device: torch.device | str) -> "AugmentationParams":
        """The same changes on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def make_params(batch: int, recipe: Augmentation, generator: torch.Generator) -> AugmentationParams:
    """Uniform shift, angle and scale as in the paper; log-uniform gamma; normal landmark jitter; random dropout."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    return AugmentationParams(
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
    )


def identity_params(batch: int) -> AugmentationParams:
    """The identity."""
    return make_params(batch, Augmentation(translation_px=0, rotation_deg=0, scale=0), torch.Generator().manual_seed(0))


def crop_matrices(frames: Tensor, changes: AugmentationParams, size_px: int) -> Tensor:
    """(B, 2, 3) from pixels of the changed region to pixels of the store: the frame after the change.

    Args:
        frames: (B, 2, 3) from pixels of the unchanged region (side `size_px`) to pixels of the store.
        changes: drawn parameters.
        size_px: S.
    """
    cos, sin = torch.cos(changes.angle_rad) * changes.scale, torch.sin(changes.angle_rad) * changes.scale
    turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    middle = (size_px - 1) / 2
    offset = middle + changes.shift * size_px - turn.sum(2) * middle
    linear = frames[:, :, :2]
    return torch.cat([linear @ turn, linear @ offset.unsqueeze(2) + frames[:, :, 2:]], dim=2)


def augment_images(images: Tensor, matrices: Tensor, changes: AugmentationParams, size_px: int) -> Tensor:
    """Regions (B, 1, S, S) float32 in [0, 1] of stored pictures (B, 384, 384) uint8, grey values changed."""
    regions, _ = sample_affine(images.unsqueeze(1).float(), matrices, size_px)
    covered = regions > 0.5  # the store's 0 means outside the film
    regions = stretch_contrast((regions - 1).clamp(min=0) / 254, covered)
    if changes.blur.any():
        regions = _blurred(regions, changes.blur * size_px)
    if changes.shade.any():
        regions = regions * functional.interpolate(changes.shade, size_px, mode="bicubic", align_corners=True).exp()
    regions = regions.clamp(0, 1) ** changes.gamma.view(-1, 1, 1, 1)
    if changes.noise.any():
        generator = torch.Generator(regions.device).manual_seed(changes.noise_seed)
        grain = torch.randn(regions.shape, generator=generator, device=regions.device)
        regions = regions + grain * changes.noise.view(-1, 1, 1, 1)
    return regions.clamp(0, 1) * covered


def _blurred(regions: Tensor, sigma_px: Tensor) -> Tensor:
    """Regions (B, 1, S, S), each convolved with a Gaussian of its own standard deviation (B,), 0 for none."""
    reach = max(1, math.ceil(2.5 * float(sigma_px.max())))
    offsets = torch.arange(-reach, reach + 1, device=regions.device)
    kernel = functional.softmax(-(offsets**2) / (2 * sigma_px.clamp(min=1e-2)[:, None] ** 2), dim=1)
    stacked = functional.pad(regions.transpose(0, 1), (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(stacked, kernel[:, None, :, None], groups=len(regions))
    return functional.conv2d(rows, kernel[:, None, None, :], groups=len(regions)).transpose(0, 1)


def augment_landmarks(
    landmarks_px: Tensor, visible: Tensor, matrices: Tensor, changes: AugmentationParams, size_px: int
) -> tuple[Tensor, Tensor]:
    """Stored landmarks (B, 74, 2) in pixels of the region, zero where unknown; and which are seen (B, 74) bool."""
    inverse = torch.linalg.inv(matrices[:, :, :2])
    points = (landmarks_px - matrices[:, :, 2].unsqueeze(1)) @ inverse.transpose(1, 2) + changes.jitter * size_px
    inside = ((points >= 0) & (points <= size_px - 1)).all(-1)
    return points.nan_to_num(0.0), visible & inside & ~changes.dropped
