"""What no contour gives: growth-plate scars, condyle borders, the open notch, cysts, calcified menisci, metal."""

from collections.abc import Callable

import torch
from torch import Tensor

from kneegrade.phantom.sheet import Sheet


def bell(x: Tensor) -> Tensor:
    """exp(-x²), cut off before it becomes denormal, which is slow."""
    return torch.exp(-x.clamp(-5, 5).square())


def line_factor(sheets: Sheet, where: Tensor) -> Tensor:
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


def cyst_factor(sheets: Sheet, where: Tensor) -> Tensor:
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


def calcification(sheets: Sheet, where: Tensor, texture: Tensor) -> Tensor:
    """Stippled share 0 … 1 (B, H, W) of the menisci that calcium could fill."""
    filled = torch.zeros_like(where[..., 0])
    for row in sheets.menisci.unbind(1):
        x, y, half_x, half_y = row.view(-1, 4, 1, 1).unbind(1)
        square = ((where[..., 0] - x) / half_x) ** 2 + ((where[..., 1] - y) / half_y) ** 2
        filled += (1 - square).clamp(min=0).sqrt()
    return filled * (1 + texture).clamp(0, 2) / 2


def metal(sheets: Sheet, where: Tensor) -> tuple[Tensor | None, Tensor | None]:
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
