"""`leg_maps`: how many millimetres of bone mineral, muscle, fat and metal the ray of each pixel crosses.

Each bone is a rounded plate (see `bones`) computed from the signed distance to its contour. Factors on its mineral add
structures that no contour describes: scars and other lines, the intercondylar notch, cysts. Patella, fabella, calcified
menisci, soft tissue and metal are added afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.bones import ATTRIBUTES, TABLE_Y_MM
from kneegrade.phantom.contours import signed_distance
from kneegrade.phantom.render_params import Canvas, RenderParams, grid_mm
from kneegrade.phantom.texture import blurred

COARSE_MM = 1.1  # distance between coarse positions; contours hardly bend over this length
MARGIN_MM = 9.0  # margin of a bone's window, for its rims and for the blur of seams
RIM_SHARE = 0.25  # depth of a rim relative to that of the bone
SCLEROSIS_MM = 5.0  # decay length of subchondral sclerosis
SEAM_PX = 1.5  # standard deviation of the blur of attributes, in coarse pixels
LEG_DEPTH = 0.85  # anteroposterior depth of the leg relative to its width


@dataclass(frozen=True, eq=False)
class LegMaps:
    """Thickness in mm along the ray, each (B, H, W) float32.

    Attributes:
        mineral: equivalent thickness of solid compact bone; cancellous bone counts with its volume fraction.
        bone: total thickness of the bones, marrow included.
        muscle, fat: soft tissue of the whole leg, with the volume of the bones not subtracted.
        titanium, steel: metal; None if no knee of the batch has any.
    """

    mineral: Tensor
    bone: Tensor
    muscle: Tensor
    fat: Tensor
    titanium: Tensor | None
    steel: Tensor | None


def coarse_step(size_px: int, size_mm: float) -> int:
    """`Canvas.step` for an image of `size_px` pixels that shows `size_mm` millimetres."""
    return max(1, round(COARSE_MM * size_px / size_mm))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Context in which all operations use full float32.

    Autocast and TF32 are disabled: coordinates rounded to a lower precision would be off by millimetres.
    """
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
        yield


def leg_maps(params: RenderParams, canvas: Canvas, texture: Tensor) -> LegMaps:
    """Thickness maps of B legs.

    Args:
        params: a batch of B knees.
        canvas: the pixel grid to render on.
        texture: (B, H, W) with mean 0 and unit standard deviation; modulates cancellous bone.
    """
    positions = grid_mm(canvas.to_mm, canvas.shape)
    mineral, bone = torch.zeros_like(positions[..., 0]), torch.zeros_like(positions[..., 0])
    modulation = (1 + params.scalar("texture") * texture).clamp(0.1, 3.0)
    for number in range(3):
        _add_bone(mineral, bone, params, number, canvas, modulation)
    mineral *= line_factor(params, positions) * notch_factor(params, positions) * cyst_factor(params, positions)
    _add_small_bones(mineral, bone, params, positions, modulation)
    mineral += calcification(params, positions, texture) * params.scalar("chondrocalcinosis")
    muscle, fat = _soft_tissue(params, positions)
    return LegMaps(mineral, bone, muscle, fat, *metal(params, positions))


def _add_bone(
    mineral: Tensor, bone: Tensor, params: RenderParams, number: int, canvas: Canvas, modulation: Tensor
) -> None:
    """Add bone `number` of every knee to the maps in place, within the window that contains it."""
    window = _window(params, number, canvas)
    if window is None:
        return
    rows, columns = window
    distance, depth, wall, attributes = _fields(params, number, canvas, window)
    radius, cortex, density, sclerosis, line, line_depth, rim = attributes
    coverage = (distance / canvas.pixel_mm + 0.5).clamp(0, 1)
    outer = depth * _dome(distance, radius) * coverage
    inner = (depth - 2 * wall).clamp(min=0) * _dome(distance - cortex, (radius - cortex).clamp(min=1.0))
    inner = torch.minimum(inner, outer)
    rims = RIM_SHARE * depth * (1 + distance / rim.clamp(min=0.05)).clamp(0, 1) * (1 - coverage)
    y_mm = grid_mm(canvas.to_mm, _extent(window), 1, (columns.start, rows.start))[..., 1]
    share = params.scalar("tibia_share") if number else 1.0
    fraction = share * params.scalar("bone_volume_fraction") * (0.12 + 0.88 / (1 + (y_mm / 60.0) ** 4))
    fraction = fraction * (1 + sclerosis) * (1 + line * bell((distance - line_depth) / 0.6))
    mineral[:, rows, columns] += (outer - inner + rims) * density + inner * fraction * modulation[:, rows, columns]
    bone[:, rows, columns] += outer


def _extent(window: tuple[slice, slice]) -> tuple[int, int]:
    """Height and width of a window."""
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def _window(params: RenderParams, number: int, canvas: Canvas) -> tuple[slice, slice] | None:
    """Rows and columns that contain a bone in at least one image of the batch; None if it lies outside all images.

    The window starts at a multiple of the step, so that a knee's coarse positions do not depend on its batch.
    """
    vertices = params.vertices[:, number].double()
    to_px = torch.linalg.inv(canvas.to_mm[:, :, :2].double())
    pixels = (vertices - canvas.to_mm[:, None, :, 2].double()) @ to_px.transpose(1, 2)
    pixels = pixels[vertices[..., 0] < 1e3]  # without the padding
    margin = MARGIN_MM / float(canvas.pixel_mm.min())
    low, high = (pixels.amin(0) - margin).floor().tolist(), (pixels.amax(0) + margin).ceil().tolist()
    left, top = (max(0, int(v) // canvas.step * canvas.step) for v in low)
    right, bottom = (min(int(v) + 1, side) for v, side in zip(high, canvas.shape[::-1], strict=True))
    rows, columns = slice(top, bottom), slice(left, right)
    return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None


def _fields(
    params: RenderParams, number: int, canvas: Canvas, window: tuple[slice, slice]
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Signed distance, depth, wall and the seven attributes, each (B, h, w), in a window of the canvas.

    They are computed at every `step`-th pixel and interpolated. Sclerosis already decays with the distance from the
    contour.
    """
    rows, columns = window
    (height, width), step = _extent(window), canvas.step
    coarse_shape = (-(-(height - 1) // step) + 1, -(-(width - 1) // step) + 1)
    positions = grid_mm(canvas.to_mm, coarse_shape, step, (columns.start, rows.start))
    distance, attributes = signed_distance(params.polygons(number), rearrange(positions, "b h w c -> b (h w) c"))
    sclerosis = ATTRIBUTES.index("sclerosis")
    attributes[..., sclerosis] *= torch.exp(-distance.clamp(min=0) / SCLEROSIS_MM)
    attributes = rearrange(attributes, "b (h w) c -> (b c) h w", h=coarse_shape[0])
    attributes = blurred(attributes, [SEAM_PX] * len(attributes))  # hides seams where the nearest vertex jumps
    tables = torch.stack([params.depth[:, number], params.wall[:, number]], 1)
    over_height = over_y(tables, positions[..., 1])
    fields = [distance.view(-1, 1, *coarse_shape), over_height, attributes.view(len(distance), -1, *coarse_shape)]
    fine = torch.cat(fields, 1)
    if step > 1:
        full_shape = ((coarse_shape[0] - 1) * step + 1, (coarse_shape[1] - 1) * step + 1)
        fine = functional.interpolate(fine, full_shape, mode="bilinear", align_corners=True)[:, :, :height, :width]
    distance, depth, wall, *rest = fine.unbind(1)
    return distance, depth, wall, tuple(rest)


def over_y(tables: Tensor, y_mm: Tensor) -> Tensor:
    """Values (B, T, h, w) of tables (B, T, 341) over `TABLE_Y_MM` at y (B, h, w), by linear interpolation."""
    first, step = float(TABLE_Y_MM[0]), float(TABLE_Y_MM[1] - TABLE_Y_MM[0])
    cell = ((y_mm - first) / step).clamp(0, len(TABLE_Y_MM) - 1.001)
    low = cell.long()
    share = (cell - low).unsqueeze(1)
    index = rearrange(low, "b h w -> b 1 (h w)").expand(-1, tables.shape[1], -1)
    below, above = (tables.gather(2, index + more).view(*tables.shape[:2], *y_mm.shape[1:]) for more in (0, 1))
    return below + share * (above - below)


def _dome(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Relative depth, 0 … 1, that a ray crosses at a distance (mm) inside a rounded edge: √(1 - (1 - d/R)²)."""
    rest = 1 - (distance / radius).clamp(0, 1)
    return (1 - rest * rest).sqrt()


def bell(x: Tensor) -> Tensor:
    """exp(-x²), with x clamped to ±5 because denormal results are slow."""
    return torch.exp(-x.clamp(-5, 5).square())


def line_factor(params: RenderParams, positions: Tensor) -> Tensor:
    """Factor (B, H, W) ≥ 1 on the mineral of the bones: faint wavy lines of varying strength that fade at their ends.

    Args:
        params: a batch of B knees.
        positions: (B, H, W, 2) knee coordinates in mm.
    """
    factor = torch.ones_like(positions[..., 0])
    for row in params.lines.unbind(1):
        angle, x, y, half, strength, bend, phase_a, phase_b, phase_c, width = row.view(-1, 10, 1, 1).unbind(1)
        along = (positions[..., 0] - x) * angle.cos() + (positions[..., 1] - y) * angle.sin()
        across = (positions[..., 1] - y) * angle.cos() - (positions[..., 0] - x) * angle.sin()
        off = across - bend * along * along - 0.8 * (along / 6 + phase_a).sin() - 0.4 * (along / 2.3 + phase_b).sin()
        shown = ((half - along.abs()) / 4 + 0.5).clamp(0, 1) * (0.6 + 0.4 * (along / 5 + phase_c).sin())
        factor += strength * shown * bell(off / width)
    return factor


def notch_factor(params: RenderParams, positions: Tensor) -> Tensor:
    """Factor (B, H, W) ≤ 1 on the mineral above the intercondylar notch, where the posterior wall is open."""
    x, y = positions[..., 0] - params.scalar("notch_x"), positions[..., 1] - params.scalar("notch_y")
    inside = ((2 - y) / 3 + 0.5).clamp(0, 1) * ((y + params.scalar("notch_reach")) / 6 + 0.5).clamp(0, 1)
    return 1 - params.scalar("notch_void") * bell(x / 9.0) * inside


def cyst_factor(params: RenderParams, positions: Tensor) -> Tensor:
    """Factor (B, H, W) on the mineral: < 1 inside a cyst, > 1 in its sclerotic rim."""
    factor = torch.ones_like(positions[..., 0])
    cysts = params.cysts
    if not bool((cysts[..., 4] > 0).any()):
        return factor
    for row in cysts.unbind(1):
        x, y, half_x, half_y, loss, rim = row.view(-1, 6, 1, 1).unbind(1)
        radius = (((positions[..., 0] - x) / half_x) ** 2 + ((positions[..., 1] - y) / half_y) ** 2).sqrt()
        edge = (loss > 0) * rim * bell((radius - 1) * half_x / 0.6)
        factor = factor * (1 - loss * ((1 - radius) * half_x / 1.5 + 0.5).clamp(0, 1) + edge)
    return factor


def _add_small_bones(
    mineral: Tensor, bone: Tensor, params: RenderParams, positions: Tensor, modulation: Tensor
) -> None:
    """Add the patella, a lens-shaped bone in front of the femur, and the fabella to the maps in place."""
    x0, y0, half_x, half_y, thick = (v.view(-1, 1, 1) for v in params.patella.unbind(1))
    across, along = (positions[..., 0] - x0) / half_x, (positions[..., 1] - y0) / half_y
    across = across * (1 + 0.18 * along.clamp(-1, 1))  # narrower at its lower pole
    radius = (across * across + along * along + 1e-6).sqrt()
    distance = (1 - radius) * torch.minimum(half_x, half_y)
    outer = thick * _dome(distance, 14.0)
    inner = torch.minimum((thick - 1.6).clamp(min=0) * _dome(distance - 0.8, 13.2), outer)
    fraction = 0.55 * params.scalar("bone_volume_fraction")
    mineral += (outer - inner) * 0.35 + inner * fraction * modulation
    bone += outer
    x0, y0, half = (v.view(-1, 1, 1) for v in params.fabella.unbind(1))
    off = ((positions[..., 0] - x0) ** 2 + ((positions[..., 1] - y0) / 1.25) ** 2) / half.clamp(min=0.1) ** 2
    mineral += 0.5 * half * (1 - off).clamp(min=0).sqrt()


def calcification(params: RenderParams, positions: Tensor, texture: Tensor) -> Tensor:
    """Stippled thickness (B, H, W), 0 … 1, of calcified menisci relative to `Build.chondrocalcinosis`."""
    filled = torch.zeros_like(positions[..., 0])
    for row in params.menisci.unbind(1):
        x, y, half_x, half_y = row.view(-1, 4, 1, 1).unbind(1)
        square = ((positions[..., 0] - x) / half_x) ** 2 + ((positions[..., 1] - y) / half_y) ** 2
        filled += (1 - square).clamp(min=0).sqrt()
    return filled * (1 + texture).clamp(0, 2) / 2


def _soft_tissue(params: RenderParams, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Muscle and fat thickness (B, H, W) of the leg; its profile √(1 - u⁴) across is flatter than an ellipse."""
    half, middle = over_y(params.leg, positions[..., 1]).unbind(1)
    offset = (positions[..., 0] - middle) ** 2
    inner = (half - params.scalar("fat")).clamp(min=5.0)
    total, muscle = (
        2 * LEG_DEPTH * width * (1 - (offset / width**2) ** 2).clamp(min=0).sqrt() for width in (half, inner)
    )
    return muscle, total - muscle


def metal(params: RenderParams, positions: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Thickness in mm of titanium and of steel, each (B, H, W), or None if no knee of the batch has any."""
    bars = params.bars
    if not bars.shape[1]:
        return None, None
    titanium, steel = torch.zeros_like(positions[..., 0]), torch.zeros_like(positions[..., 0])
    for row in bars.unbind(1):
        x0, y0, x1, y1, half, depth, is_steel = row.view(-1, 7, 1, 1).unbind(1)
        along_x, along_y = x1 - x0, y1 - y0
        from_x, from_y = positions[..., 0] - x0, positions[..., 1] - y0
        share = (from_x * along_x + from_y * along_y) / (along_x**2 + along_y**2).clamp(min=1e-6)
        share = share.clamp(0, 1)
        square = (from_x - share * along_x) ** 2 + (from_y - share * along_y) ** 2
        rod = 2 * (half * half - square).clamp(min=0).sqrt()
        thickness = torch.where(depth > 0, depth * (2 * (half - square.sqrt()) + 0.5).clamp(0, 1) * (half > 0), rod)
        titanium = torch.maximum(titanium, thickness * (1 - is_steel))
        steel = torch.maximum(steel, thickness * is_steel)
    return titanium, steel
