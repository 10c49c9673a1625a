"""Random fields of the renderer: white noise from a key, Gaussian blur, and trabecular texture.

The noise depends only on a key and a pixel's number, so it is the same in any batch and, up to rounding, on any device.
`blurred` and `wide_blur` blur each image of a batch with its own width; the result of an image does not depend on the
batch. `trabeculae` filters noise into vertical strands, a finer mesh and a slow mottle.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, fft
from torch.nn import functional

# The finaliser of MurmurHash3 with Chris Wellons's "lowbias32" constants (public domain), on 32-bit words.
_SHIFTS, _FACTORS = (16, 15, 16), (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9 - 2**32


def normal_pair(keys: Tensor, stream: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two fields of independent standard normal noise, each (B, H, W) float32.

    Args:
        keys: (B,) int64 in [0, 2³¹), one per image.
        stream: number that selects one of several independent fields of the same key.
        shape: (H, W); the value of a pixel depends on its number in the image, and therefore on W.
    """
    count = torch.arange(shape[0] * shape[1], dtype=torch.int32, device=keys.device)
    start = mix(keys.to(torch.int32) + _wrap(_GOLDEN * (2 * stream + 1)))
    first = mix(count.unsqueeze(0) * _GOLDEN + start.unsqueeze(1))  # (B, H·W)
    second = mix(first ^ mix(start + 1).unsqueeze(1))
    # Box–Muller transform; with 23 bits, (k + ½) / 2²³ is exact in float32 and strictly between 0 and 1.
    radius = ((first & 0x7FFFFF).float() + 0.5).mul_(2.0**-23).log_().mul_(-2.0).sqrt_()
    angle = (second & 0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
    return (radius * angle.cos()).view(-1, *shape), (radius * angle.sin()).view(-1, *shape)


def mix(words: Tensor) -> Tensor:
    """Hashed 32-bit words (any shape, int32): neighbouring inputs give unrelated outputs."""
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        words = words ^ ((words >> shift) & (2 ** (32 - shift) - 1))
        if factor is not None:
            words = words * factor
    return words


def _wrap(value: int) -> int:
    """The integer wrapped to the range of int32."""
    return (value + 2**31) % 2**32 - 2**31


COARSE_SIDE = 40  # wide blurs are computed on images with about this many pixels along the shorter side


def blurred(images: Tensor, sigma_px: Sequence[float]) -> Tensor:
    """Images (B, H, W), each blurred by a Gaussian of its own width.

    The kernel is cut off at 3 standard deviations; edges are padded by replication.

    Args:
        images: (B, H, W) float32.
        sigma_px: standard deviation in pixels, one per image; 0 = no blur.
    """
    reach = max(1, math.ceil(3 * max(sigma_px)))
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
    sigma = torch.tensor([max(s, 1e-3) for s in sigma_px], dtype=torch.float32).unsqueeze(1)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2) * (offset.abs() <= 3 * sigma)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.device).view(len(sigma_px), 1, 1, -1)
    padded = functional.pad(images.unsqueeze(0), (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel, groups=len(sigma_px))
    return functional.conv2d(across, kernel.transpose(2, 3), groups=len(sigma_px))[0]


def wide_blur(images: Tensor, sigma_mm: float, pixel_mm: Sequence[float]) -> Tensor:
    """Images (B, H, W) blurred by a wide Gaussian, computed on a downsampled copy.

    Args:
        images: (B, H, W) float32.
        sigma_mm: standard deviation in mm.
        pixel_mm: size of a pixel, one per image.
    """
    height, width = images.shape[1:]
    step = max(1, min(height, width) // COARSE_SIDE)
    padded = functional.pad(images.unsqueeze(0), (0, -width % step, 0, -height % step), mode="replicate")
    coarse = functional.avg_pool2d(padded, step)[0]
    slow = blurred(coarse, [sigma_mm / size / step for size in pixel_mm])
    fine = functional.interpolate(slow.unsqueeze(0), scale_factor=step, mode="bilinear", align_corners=False)[0]
    return fine[:, :height, :width]


def trabeculae(keys: Tensor, shape: tuple[int, int], to_mm: Tensor) -> Tensor:
    """Trabecular texture (B, H, W) of unit standard deviation, with strands along the knee's y axis.

    The statistics in mm are the same at any pixel size.

    Args:
        keys: (B,) int64, one per knee.
        shape: (H, W).
        to_mm: (B, 2, 3) from pixels to mm of the knee, so that strands follow the rotation of the leg.
    """
    rows, columns = (_fft_length(length) for length in shape)
    pixel_mm = to_mm[:, :, :2].det().abs().sqrt().view(-1, 1, 1)
    white, _ = normal_pair(keys, 0, (rows, columns))
    fy = fft.fftfreq(rows, device=keys.device).view(1, -1, 1)
    fx = fft.rfftfreq(columns, device=keys.device).view(1, 1, -1)
    # The transposed inverse of the matrix converts frequencies from cycles per pixel to cycles per mm.
    to_px = torch.linalg.inv(to_mm[:, :, :2])
    along_x = to_px[:, 0, 0].view(-1, 1, 1) * fx + to_px[:, 1, 0].view(-1, 1, 1) * fy
    along_y = to_px[:, 0, 1].view(-1, 1, 1) * fx + to_px[:, 1, 1].view(-1, 1, 1) * fy
    shaped: Tensor = fft.irfft2(fft.rfft2(white) * _band(along_y, along_x), s=(rows, columns))
    return shaped[:, : shape[0], : shape[1]] / (pixel_mm * _band_strength())


def _fft_length(length: int) -> int:
    """The smallest even length ≥ `length` without a prime factor above 5, for which the FFT is fast."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and length % 2 == 0:
            return length
        length += 1


def _band(fy: Tensor, fx: Tensor) -> Tensor:
    """Amplitude response of trabecular texture to frequencies in cycles per mm."""
    square = fx * fx + fy * fy
    strands = torch.exp(-(((fx.abs() - 0.7) / 0.45) ** 2) - (fy / 0.22) ** 2)
    mesh = 0.35 * torch.exp(-((((square + 1e-9).sqrt() - 0.5) / 0.4) ** 2))
    mottle = 2.4 * torch.exp(-square / 0.10**2) * (1 - torch.exp(-square / 0.02**2))
    return strands + mesh + mottle


@cache
def _band_strength() -> float:
    """Standard deviation of the texture before scaling, integrated over all frequencies."""
    axis = torch.arange(-5.0, 5.0, 0.02)
    return float((_band(axis[:, None], axis) ** 2).sum().sqrt() * 0.02)
