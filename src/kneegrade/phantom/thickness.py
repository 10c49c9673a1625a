"""Thickness maps of a batch of legs in millimetres: mineral of the bones, muscle, fat and metal, as rays cross them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.bones import ATTRIBUTES, TABLE_Y_MM
from kneegrade.phantom.render_params import SCALARS, RenderParams, polygons_of, signed_distance
from kneegrade.phantom.texture import bell, blurred, calcification, cyst_factor, line_factor, metal, notch_factor

MARGIN_MM = 9.0  # room for rims, and for the blur of seams
RIM_SHARE = 0.25  # of the bone's depth
SCLEROSIS_MM = 5.0  # over which subchondral bone thins out to cancellous
SEAM_PX = 1.5  # coarse pixels
LEG_DEPTH = 0.85  # of the leg, front to back, relative to its width


@dataclass(frozen=True, eq=False)
class LegMaps:
    """Thickness in mm along the ray, each (B, H, W) float32.

    Attributes:
        mineral: compact bone, its thickness if it were solid; cancellous bone counts by its volume fraction.
        bone: everything inside the bones.
        muscle, fat: soft tissue of the whole leg, bones not yet taken out.
        titanium, steel: metal; None where no knee of the batch has any.
    """

    mineral: Tensor
    bone: Tensor
    muscle: Tensor
    fat: Tensor
    titanium: Tensor | None
    steel: Tensor | None


def grid_mm(to_mm: Tensor, shape: tuple[int, int], step: int = 1, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Knee coordinates (B, H, W, 2) in mm of every `step`-th pixel from `corner` (x, y) on.

    Args:
        to_mm: (B, 2, 3) from (x, y, 1) in pixels to mm.
        shape: (H, W) of the result.
        step: distance of its pixels in those of the picture.
        corner: its first pixel.
    """
    x = corner[0] + step * torch.arange(shape[1], device=to_mm.device, dtype=torch.float32)
    y = corner[1] + step * torch.arange(shape[0], device=to_mm.device, dtype=torch.float32)
    along_x = to_mm[:, None, None, :, 0] * x[None, None, :, None]
    along_y = to_mm[:, None, None, :, 1] * y[None, :, None, None]
    return along_x + along_y + to_mm[:, None, None, :, 2]


COARSE_MM = 1.1  # contours bend little within that


def coarse_step(size_px: int, size_mm: float) -> int:
    """Step of a canvas (see there) for a picture that shows so many mm."""
    return max(1, round(COARSE_MM * size_px / size_mm))


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Full float32 whatever precision the caller works in: rounded coordinates would be off by millimetres."""
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
        yield


@dataclass(frozen=True, eq=False)
class Canvas:
    """The pictures that a batch of knees is drawn into.

    Attributes:
        to_mm: (B, 2, 3) from (x, y, 1) in pixels to mm of the knee.
        shape: (H, W).
        step: distances from contours are computed at every `step`-th pixel and interpolated.
    """

    to_mm: Tensor
    shape: tuple[int, int]
    step: int

    @property
    def pixel_mm(self) -> Tensor:
        """(B, 1, 1) size of a pixel at the knee."""
        return self.to_mm[:, :, :2].det().abs().sqrt().view(-1, 1, 1)


def leg_maps(sheets: RenderParams, canvas: Canvas, texture: Tensor) -> LegMaps:
    """The maps of B legs; `texture` (B, H, W), mean 0, modulates cancellous bone."""
    where = grid_mm(canvas.to_mm, canvas.shape)
    mineral, bone = torch.zeros_like(where[..., 0]), torch.zeros_like(where[..., 0])
    scalars = _Scalars(sheets)
    grain = (1 + scalars("texture") * texture).clamp(0.1, 3.0)
    for number in range(3):
        _add_bone(mineral, bone, (sheets, number), canvas, grain)
    mineral *= line_factor(sheets, where) * notch_factor(scalars, where) * cyst_factor(sheets, where)
    _add_small_bones(mineral, bone, sheets, where, grain)
    mineral += calcification(sheets, where, texture) * scalars("chondrocalcinosis")
    muscle, fat = _soft_tissue(sheets, where)
    return LegMaps(mineral, bone, muscle, fat, *metal(sheets, where))


class _Scalars:
    """Looks up a scalar of a batch by name, as (B, 1, 1)."""

    def __init__(self, sheets: RenderParams) -> None:
        self.values = sheets.scalars

    def __call__(self, name: str) -> Tensor:
        return self.values[:, SCALARS.index(name), None, None]


def _add_bone(mineral: Tensor, bone: Tensor, which: tuple[RenderParams, int], canvas: Canvas, grain: Tensor) -> None:
    """Add one bone of every knee to the maps in place, within the window where it lies."""
    sheets, number = which
    window = _window(sheets, number, canvas)
    if window is None:
        return
    rows, columns = window
    distance, depth, wall, attributes = _fields(sheets, number, canvas, window)
    radius, cortex, density, sclerosis, line, line_depth, rim = attributes
    coverage = (distance / canvas.pixel_mm + 0.5).clamp(0, 1)
    outer = depth * _dome(distance, radius) * coverage
    inner = (depth - 2 * wall).clamp(min=0) * _dome(distance - cortex, (radius - cortex).clamp(min=1.0))
    inner = torch.minimum(inner, outer)
    beyond = RIM_SHARE * depth * (1 + distance / rim.clamp(min=0.05)).clamp(0, 1) * (1 - coverage)
    y_mm = grid_mm(canvas.to_mm, _extent(window), 1, (columns.start, rows.start))[..., 1]
    share = _Scalars(sheets)("tibia_share") if number else 1.0
    fraction = share * _Scalars(sheets)("bone_volume_fraction") * (0.12 + 0.88 / (1 + (y_mm / 60.0) ** 4))
    fraction = fraction * (1 + sclerosis) * (1 + line * bell((distance - line_depth) / 0.6))
    mineral[:, rows, columns] += (outer - inner + beyond) * density + inner * fraction * grain[:, rows, columns]
    bone[:, rows, columns] += outer


def _extent(window: tuple[slice, slice]) -> tuple[int, int]:
    """Height and width of a window."""
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def _window(sheets: RenderParams, number: int, canvas: Canvas) -> tuple[slice, slice] | None:
    """Rows and columns that hold a bone in any picture of the batch, or None where all lie outside.

    They start at whole steps, so that a knee's coarse positions do not depend on the others in its batch.
    """
    vertices = sheets.vertices[:, number].double()
    turn = torch.linalg.inv(canvas.to_mm[:, :, :2].double())
    pixels = (vertices - canvas.to_mm[:, None, :, 2].double()) @ turn.transpose(1, 2)
    pixels = pixels[vertices[..., 0] < 1e3]  # without the padding
    margin = MARGIN_MM / float(canvas.pixel_mm.min())
    low, high = (pixels.amin(0) - margin).floor().tolist(), (pixels.amax(0) + margin).ceil().tolist()
    left, top = (max(0, int(v) // canvas.step * canvas.step) for v in low)
    right, bottom = (min(int(v) + 1, side) for v, side in zip(high, canvas.shape[::-1], strict=True))
    rows, columns = slice(top, bottom), slice(left, right)
    return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None


def _fields(
    sheets: RenderParams, number: int, canvas: Canvas, window: tuple[slice, slice]
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Signed distance, depth, wall and the seven attributes, each (B, h, w), computed coarsely and interpolated.

    Sclerosis comes faded with depth.
    """
    rows, columns = window
    (height, width), step = _extent(window), canvas.step
    small = (-(-(height - 1) // step) + 1, -(-(width - 1) // step) + 1)
    where = grid_mm(canvas.to_mm, small, step, (columns.start, rows.start))
    distance, attributes = signed_distance(polygons_of(sheets, number), rearrange(where, "b h w c -> b (h w) c"))
    sclerosis = ATTRIBUTES.index("sclerosis")
    attributes[..., sclerosis] *= torch.exp(-distance.clamp(min=0) / SCLEROSIS_MM)
    attributes = rearrange(attributes, "b (h w) c -> (b c) h w", h=small[0])
    attributes = blurred(attributes, [SEAM_PX] * len(attributes))  # where nearest points change over, no seam may show
    tables = torch.stack([sheets.depth[:, number], sheets.wall[:, number]], 1)
    over_height = over_y(tables, where[..., 1])
    coarse = torch.cat([distance.view(-1, 1, *small), over_height, attributes.view(len(distance), -1, *small)], 1)
    fine = coarse
    if step > 1:
        whole = ((small[0] - 1) * step + 1, (small[1] - 1) * step + 1)
        fine = functional.interpolate(coarse, whole, mode="bilinear", align_corners=True)[:, :, :height, :width]
    distance, depth, wall, *rest = fine.unbind(1)
    return distance, depth, wall, tuple(rest)


def over_y(tables: Tensor, y_mm: Tensor) -> Tensor:
    """Tables (B, T, 341) over `TABLE_Y_MM` looked up at y (B, h, w): (B, T, h, w), linear between entries."""
    first, step = float(TABLE_Y_MM[0]), float(TABLE_Y_MM[1] - TABLE_Y_MM[0])
    cell = ((y_mm - first) / step).clamp(0, len(TABLE_Y_MM) - 1.001)
    low = cell.long()
    share = (cell - low).unsqueeze(1)
    index = rearrange(low, "b h w -> b 1 (h w)").expand(-1, tables.shape[1], -1)
    below, above = (tables.gather(2, index + more).view(*tables.shape[:2], *y_mm.shape[1:]) for more in (0, 1))
    return below + share * (above - below)


def _dome(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Share 0 … 1 of the full depth that a ray crosses at a distance (mm) inside a rounded edge."""
    rest = 1 - (distance / radius).clamp(0, 1)
    return (1 - rest * rest).sqrt()


def _add_small_bones(mineral: Tensor, bone: Tensor, sheets: RenderParams, where: Tensor, grain: Tensor) -> None:
    """Add the patella, a lens of bone in front of the femur, and the fabella to the maps in place."""
    x0, y0, half_x, half_y, thick = (v.view(-1, 1, 1) for v in sheets.patella.unbind(1))
    across, along = (where[..., 0] - x0) / half_x, (where[..., 1] - y0) / half_y
    across = across * (1 + 0.18 * along.clamp(-1, 1))  # narrower at its lower pole
    radius = (across * across + along * along + 1e-6).sqrt()
    distance = (1 - radius) * torch.minimum(half_x, half_y)
    outer = thick * _dome(distance, 14.0)
    inner = torch.minimum((thick - 1.6).clamp(min=0) * _dome(distance - 0.8, 13.2), outer)
    fraction = 0.55 * _Scalars(sheets)("bone_volume_fraction")
    mineral += (outer - inner) * 0.35 + inner * fraction * grain
    bone += outer
    x0, y0, half = (v.view(-1, 1, 1) for v in sheets.fabella.unbind(1))
    off = ((where[..., 0] - x0) ** 2 + ((where[..., 1] - y0) / 1.25) ** 2) / half.clamp(min=0.1) ** 2
    mineral += 0.5 * half * (1 - off).clamp(min=0).sqrt()


def _soft_tissue(sheets: RenderParams, where: Tensor) -> tuple[Tensor, Tensor]:
    """Muscle and fat thickness (B, H, W) of the leg, flatter than an ellipse across: √(1 - u⁴)."""
    half, middle = over_y(sheets.leg, where[..., 1]).unbind(1)
    offset = (where[..., 0] - middle) ** 2
    inner = (half - _Scalars(sheets)("fat")).clamp(min=5.0)
    total, muscle = (
        2 * LEG_DEPTH * width * (1 - (offset / width**2) ** 2).clamp(min=0).sqrt() for width in (half, inner)
    )
    return muscle, total - muscle
