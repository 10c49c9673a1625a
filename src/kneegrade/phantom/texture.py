"""What no contour gives: growth-plate scars, condyle borders, the open notch, cysts, calcified menisci, metal.

Noise that depends on a key and a position alone: the same in any batch and, to rounding, on any device.

Gaussian blurs of a batch of pictures, each with its own width; a picture's result does not depend on its batch.

Trabecular texture: noise shaped into upright strands, a finer mesh and a slow mottle.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, fft
from torch.nn import functional

from kneegrade.phantom.render_params import RenderParams

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


def bell(x: Tensor) -> Tensor:
    """exp(-x²), cut off before it becomes denormal, which is slow."""
    return torch.exp(-x.clamp(-5, 5).square())


def line_factor(sheets: RenderParams, where: Tensor) -> Tensor:
    """Factor (B, H, W) ≥ 1 on the bones' mineral: faint wavy lines, fading out at their ends and in places between.

    Args:
        sheets: a batch.
        where: (B, H, W, 2) knee coordinates in mm.
    """
    factor = torch.ones_like(where[..., 0])
    for row in sheets.lines.unbind(1):
        angle, x, y, half, strength, bend, phase_a, phase_b, phase_c, width = row.view(-1, 10, 1, 1).unbind(1)
        along = (where[..., 0] - x) * angle.cos() + (where[..., 1] - y) * angle.sin()
        across = (where[..., 1] - y) * angle.cos() - (where[..., 0] - x) * angle.sin()
        off = across - bend * along * along - 0.8 * (along / 6 + phase_a).sin() - 0.4 * (along / 2.3 + phase_b).sin()
        shown = ((half - along.abs()) / 4 + 0.5).clamp(0, 1) * (0.6 + 0.4 * (along / 5 + phase_c).sin())
        factor += strength * shown * bell(off / width)
    return factor


def notch_factor(scalar: Callable[[str], Tensor], where: Tensor) -> Tensor:
    """Factor (B, H, W) ≤ 1 on the mineral above the intercondylar notch, where the far wall leaves it open."""
    x, y = where[..., 0] - scalar("notch_x"), where[..., 1] - scalar("notch_y")
    inside = ((2 - y) / 3 + 0.5).clamp(0, 1) * ((y + scalar("notch_reach")) / 6 + 0.5).clamp(0, 1)
    return 1 - scalar("notch_void") * bell(x / 9.0) * inside


def cyst_factor(sheets: RenderParams, where: Tensor) -> Tensor:
    """Factor (B, H, W) on the mineral: less inside a cyst, more in its rim."""
    factor = torch.ones_like(where[..., 0])
    cysts = sheets.cysts
    if not bool((cysts[..., 4] > 0).any()):
        return factor
    for row in cysts.unbind(1):
        x, y, half_x, half_y, loss, rim = row.view(-1, 6, 1, 1).unbind(1)
        radius = (((where[..., 0] - x) / half_x) ** 2 + ((where[..., 1] - y) / half_y) ** 2).sqrt()
        edge = (loss > 0) * rim * bell((radius - 1) * half_x / 0.6)
        factor = factor * (1 - loss * ((1 - radius) * half_x / 1.5 + 0.5).clamp(0, 1) + edge)
    return factor


def calcification(sheets: RenderParams, where: Tensor, texture: Tensor) -> Tensor:
    """Stippled share 0 … 1 (B, H, W) of the menisci that calcium could fill."""
    filled = torch.zeros_like(where[..., 0])
    for row in sheets.menisci.unbind(1):
        x, y, half_x, half_y = row.view(-1, 4, 1, 1).unbind(1)
        square = ((where[..., 0] - x) / half_x) ** 2 + ((where[..., 1] - y) / half_y) ** 2
        filled += (1 - square).clamp(min=0).sqrt()
    return filled * (1 + texture).clamp(0, 2) / 2


def metal(sheets: RenderParams, where: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Thickness in mm of titanium and of steel, each (B, H, W), or None where no knee has any."""
    bars = sheets.bars
    if not bars.shape[1]:
        return None, None
    titanium, steel = torch.zeros_like(where[..., 0]), torch.zeros_like(where[..., 0])
    for row in bars.unbind(1):
        x0, y0, x1, y1, half, depth, is_steel = row.view(-1, 7, 1, 1).unbind(1)
        along_x, along_y = x1 - x0, y1 - y0
        from_x, from_y = where[..., 0] - x0, where[..., 1] - y0
        share = (from_x * along_x + from_y * along_y) / (along_x**2 + along_y**2).clamp(min=1e-6)
        share = share.clamp(0, 1)
        square = (from_x - share * along_x) ** 2 + (from_y - share * along_y) ** 2
        rod = 2 * (half * half - square).clamp(min=0).sqrt()
        thickness = torch.where(depth > 0, depth * (2 * (half - square.sqrt()) + 0.5).clamp(0, 1) * (half > 0), rod)
        titanium = torch.maximum(titanium, thickness * (1 - is_steel))
        steel = torch.maximum(steel, thickness * is_steel)
    return titanium, steel
