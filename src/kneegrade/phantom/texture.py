"""Trabecular texture: noise shaped into upright strands, a finer mesh and a slow mottle."""

from functools import cache

import torch
from torch import Tensor, fft

from kneegrade.phantom.noise import normal_pair


def trabeculae(keys: Tensor, shape: tuple[int, int], to_mm: Tensor) -> Tensor:
    """Texture (B, H, W) of unit strength, its strands along the knee's y axis, the same kind at any pixel size.

    Args:
        keys: (B,) int64, one per knee.
        shape: (H, W).
        to_mm: (B, 2, 3) from pixels to mm of the knee: strands follow the leg.
    """
    rows, columns = (_fast(length) for length in shape)
    pixel_mm = to_mm[:, :, :2].det().abs().sqrt().view(-1, 1, 1)
    white, _ = normal_pair(keys, 0, (rows, columns))
    fy = fft.fftfreq(rows, device=keys.device).view(1, -1, 1)
    fx = fft.rfftfreq(columns, device=keys.device).view(1, 1, -1)
    # a frequency in cycles per pixel becomes one in cycles per mm through the inverse of the matrix, transposed
    turn = torch.linalg.inv(to_mm[:, :, :2])
    along_x = turn[:, 0, 0].view(-1, 1, 1) * fx + turn[:, 1, 0].view(-1, 1, 1) * fy
    along_y = turn[:, 0, 1].view(-1, 1, 1) * fx + turn[:, 1, 1].view(-1, 1, 1) * fy
    shaped: Tensor = fft.irfft2(fft.rfft2(white) * _band(along_y, along_x), s=(rows, columns))
    return shaped[:, : shape[0], : shape[1]] / (pixel_mm * _band_strength())


def _fast(length: int) -> int:
    """The next length with no prime factor above 5, which transforms fast."""
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
    """Standard deviation of the texture before scaling, by integration over all frequencies."""
    axis = torch.arange(-5.0, 5.0, 0.02)
    return float((_band(axis[:, None], axis) ** 2).sum().sqrt() * 0.02)
