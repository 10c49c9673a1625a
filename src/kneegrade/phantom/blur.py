"""Gaussian blurs of a batch of pictures, each with its own width; a picture's result does not depend on its batch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

COARSE_SIDE = 40  # wide blurs are computed on pictures with this many pixels along their shorter side


def blurred(images: Tensor, sigma_px: Sequence[float]) -> Tensor:
    """Pictures (B, H, W) blurred by `sigma_px` pixels each (0 = not at all), cut off at 3 sigma, edges repeated."""
    reach = max(1, math.ceil(3 * max(sigma_px)))
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
    sigma = torch.tensor([max(s, 1e-3) for s in sigma_px], dtype=torch.float32).unsqueeze(1)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2) * (offset.abs() <= 3 * sigma)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.device).view(len(sigma_px), 1, 1, -1)
    padded = functional.pad(images.unsqueeze(0), (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel, groups=len(sigma_px))
    return functional.conv2d(across, kernel.transpose(2, 3), groups=len(sigma_px))[0]


def slowly(images: Tensor, sigma_mm: float, pixel_mm: Sequence[float]) -> Tensor:
    """Pictures (B, H, W) blurred widely, by way of a coarse copy."""
    height, width = images.shape[1:]
    step = max(1, min(height, width) // COARSE_SIDE)
    padded = functional.pad(images.unsqueeze(0), (0, -width % step, 0, -height % step), mode="replicate")
    coarse = functional.avg_pool2d(padded, step)[0]
    slow = blurred(coarse, [sigma_mm / size / step for size in pixel_mm])
    fine = functional.interpolate(slow.unsqueeze(0), scale_factor=step, mode="bilinear", align_corners=False)[0]
    return fine[:, :height, :width]
