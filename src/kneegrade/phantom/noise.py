"""Noise that depends on a key and a position alone: the same in any batch and, to rounding, on any device."""

import math

import torch
from torch import Tensor

# The finaliser of MurmurHash3 with Chris Wellons's "lowbias32" constants (public domain), on 32-bit words.
_SHIFTS, _FACTORS = (16, 15, 16), (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9 - 2**32


def normal_pair(keys: Tensor, stream: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two fields of independent standard normal noise, each (B, H, W) float32.

    Args:
        keys: (B,) int64 in [0, 2³¹), one per picture.
        stream: tells apart the fields of one key.
        shape: (H, W); the value of a pixel depends on its number in the picture, so on W too.
    """
    count = torch.arange(shape[0] * shape[1], dtype=torch.int32, device=keys.device)
    start = mix(keys.to(torch.int32) + _wrap(_GOLDEN * (2 * stream + 1)))
    first = mix(count.unsqueeze(0) * _GOLDEN + start.unsqueeze(1))  # (B, H·W)
    second = mix(first ^ mix(start + 1).unsqueeze(1))
    # 23 bits: (k + ½) / 2²³ is exact in float32 and lies strictly between 0 and 1
    radius = ((first & 0x7FFFFF).float() + 0.5).mul_(2.0**-23).log_().mul_(-2.0).sqrt_()
    angle = (second & 0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
    return (radius * angle.cos()).view(-1, *shape), (radius * angle.sin()).view(-1, *shape)


def mix(words: Tensor) -> Tensor:
    """Scramble 32-bit words (any shape, int32) so that neighbouring inputs give unrelated outputs."""
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        words = words ^ ((words >> shift) & (2 ** (32 - shift) - 1))
        if factor is not None:
            words = words * factor
    return words


def _wrap(value: int) -> int:
    """An integer reduced to the range of int32."""
    return (value + 2**31) % 2**32 - 2**31
