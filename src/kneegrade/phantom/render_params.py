"""Inputs of the renderer: `RenderParams` describes the knees of a batch, `Canvas` the pixel grid to render them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.bones import TABLE_Y_MM, bones_of
from kneegrade.phantom.contours import NOWHERE_MM, Polygons, polygon
from kneegrade.phantom.phantom_knee import PhantomKnee

Array = NDArray[np.float64]

MAX_CYSTS = 4
SCALARS = (
    "bone_volume_fraction",
    "tibia_share",
    "texture",
    "scar",
    "fat",
    "chondrocalcinosis",
    "notch_x",
    "notch_y",
    "notch_void",
    "notch_reach",
)


class RenderParams(NamedTuple):
    """Tensors that describe one knee, or with a leading axis B a batch of knees; float32 except `key`; lengths in mm.

    Attributes:
        vertices, rest: `Polygons` of femur, tibia, fibula: (3, V, 2), (3, V, 4 + 7).
        depth, wall: (3, 341) over `TABLE_Y_MM`: depth of each bone, and thickness of its front and back walls.
        leg: (2, 341) over `TABLE_Y_MM`: half-width of the leg, and x of its centre line.
        scalars: (10,) in the order of `SCALARS`.
        lines: (L, 10): angle in radians, centre x, y, half-length, strength, bend, three phases, width.
        cysts: (4, 6): centre x, y, half-axes, loss, rim; unused rows have half-axes 1 and loss 0.
        menisci: (2, 4): centre x, y and half-axes of the region that may be calcified.
        patella: (5,) and fabella: (3,), as in `Build`.
        bars: (P, 7): start, end, half-width, depth (0 = round rod), 1 for steel or 0 for titanium; P may be 0.
        key: () int64 in [0, 2³¹), the seed of noise and texture.
    """

    vertices: Tensor
    rest: Tensor
    depth: Tensor
    wall: Tensor
    leg: Tensor
    scalars: Tensor
    lines: Tensor
    cysts: Tensor
    menisci: Tensor
    patella: Tensor
    fabella: Tensor
    bars: Tensor
    key: Tensor

    def scalar(self, name: str) -> Tensor:
        """One scalar of a batch, as (B, 1, 1)."""
        return self.scalars[:, SCALARS.index(name), None, None]

    def polygons(self, bone: int) -> Polygons:
        """The contours of one bone of a batch: 0 femur, 1 tibia, 2 fibula."""
        return Polygons(self.vertices[:, bone], self.rest[:, bone])


def render_params_of(knee: PhantomKnee) -> RenderParams:
    """Render parameters of one knee, with the three contours padded to the same length."""
    bones = bones_of(knee)
    longest = max(len(bone.points) for bone in bones)
    polygons = [polygon(bone.points, bone.attributes, longest) for bone in bones]
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 3]))
    build, (notch_x, notch_y) = knee.build, knee.outline_mm[18]
    from_build = [getattr(build, name) for name in SCALARS[:6]]
    scalars = [*from_build, notch_x, notch_y, rng.uniform(0.05, 0.45), rng.uniform(5.0, 10.0) + 0.4 * build.flexion_deg]
    cysts = np.tile([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], (MAX_CYSTS, 1))
    for row, cyst in enumerate(build.cysts):
        cysts[row] = (*cyst.centre, *cyst.half, cyst.loss, cyst.rim)
    bars = knee.implant.bars if knee.implant else ()
    metal = [(*bar.start, *bar.end, bar.half_width, bar.depth or 0.0, bar.material == "steel") for bar in bars]
    return RenderParams(
        vertices=_tensor([part[0] for part in polygons]),
        rest=_tensor([part[1] for part in polygons]),
        depth=_tensor([bone.depth for bone in bones]),
        wall=_tensor([bone.wall for bone in bones]),
        leg=_tensor(_leg(knee)),
        scalars=_tensor(scalars),
        lines=_tensor(_lines(knee, rng)),
        cysts=_tensor(cysts),
        menisci=_tensor(_menisci(knee.outline_mm)),
        patella=_tensor(build.patella),
        fabella=_tensor(build.fabella),
        bars=_tensor(np.reshape(metal, (-1, 7))),
        key=torch.tensor(int(rng.integers(2**31))),
    )


def _tensor(values: object) -> Tensor:
    """The values as a float32 tensor."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def stack(params: Sequence[RenderParams], device: torch.device | str = "cpu") -> RenderParams:
    """A batch of render parameters on a device, with contours and metal parts padded to the longest."""
    columns = []
    for name, parts in zip(RenderParams._fields, zip(*params, strict=True), strict=True):
        padded = list(parts)
        if name in ("vertices", "rest"):
            longest = max(part.shape[1] for part in parts)
            padded = [functional.pad(part, (0, 0, 0, longest - part.shape[1]), value=NOWHERE_MM) for part in parts]
        elif name == "bars":
            longest = max(part.shape[0] for part in parts)
            padded = [functional.pad(part, (0, 0, 0, longest - part.shape[0])) for part in parts]
        columns.append(torch.stack(padded).to(device))
    return RenderParams(*columns)


def _leg(knee: PhantomKnee) -> Array:
    """Half-width of the leg and x of its centre line, (2, 341) over `TABLE_Y_MM`."""
    build, y = knee.build, TABLE_Y_MM
    base = build.leg_half_width
    width = base * np.interp(
        y, [-340, -180, -70, -15, 25, 60, 130, 240, 340],
        [build.thigh * 1.25, build.thigh * 1.12, 1.06, 1.0, 0.93, 0.93 * build.calf, 1.08 * build.calf, 0.8, 0.55],
    )  # fmt: skip
    middle = np.interp(y, [-340, -80, 0, 80, 340], [-6 - 0.5 * 340 * build.femur_shaft.lean, -2, 0, -4, -2])
    wave = 0.012 * base * np.sin(y / 17.0 + 200 * build.texture)
    return np.stack([gaussian_filter1d(width, 8.0) + wave, gaussian_filter1d(middle, 8.0)])


def _lines(knee: PhantomKnee, rng: np.random.Generator) -> Array:
    """Faint lines (L, 10) in femur and tibia, in the layout of `RenderParams.lines`.

    The first three rows are growth-plate scars, the next two the walls of the condyles, the next two edges near the
    tibial spines, the last two lines without an anatomical counterpart.
    """
    notch_x, notch_y = (float(value) for value in knee.outline_mm[18])
    scar = 0.5 * knee.build.scar + 0.05
    wall = rng.uniform(0.0, 1.2, 2)
    upright = np.pi / 2
    rows = [
        (rng.normal(0, 0.05), rng.normal(0, 8), notch_y - rng.uniform(12, 22), rng.uniform(18, 36), scar),
        (rng.normal(0, 0.05), rng.normal(0, 8), rng.uniform(14, 24), rng.uniform(18, 34), scar * 0.8),
        (rng.normal(0, 0.04), rng.normal(0, 14), rng.uniform(20, 34), rng.uniform(8, 24), scar * 0.4),
        (upright + rng.normal(0.05, 0.08), notch_x - rng.uniform(9, 15), notch_y - 8, rng.uniform(8, 20), wall[0]),
        (upright - rng.normal(0.05, 0.08), notch_x + rng.uniform(9, 15), notch_y - 8, rng.uniform(8, 20), wall[1]),
        (rng.normal(0, 0.2), rng.normal(0, 5), rng.uniform(4, 11), rng.uniform(8, 18), rng.uniform(0, 0.7)),
        (rng.normal(0.7, 0.3), rng.normal(4, 5), rng.uniform(3, 12), rng.uniform(5, 14), rng.uniform(0, 0.6)),
        *(
            (
                rng.uniform(0, np.pi),
                rng.normal(x, 8),
                notch_y - rng.normal(10, 8),
                rng.uniform(6, 18),
                rng.uniform(0, 0.6),
            )
            for x in (-24, 24)
        ),
    ]
    extra = [(rng.normal(0, 0.008), *rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.5, 1.2)) for _ in rows]
    return np.array([(*row, *more) for row, more in zip(rows, extra, strict=True)], dtype=np.float64)


def _menisci(outline: Array) -> Array:
    """Centre x, y and half-axes of the two menisci, (2, 4): they lie between the outer thirds of the joint surfaces."""
    rows = []
    for femur, tibia in ((13, 48), (23, 62)):
        x, y = (outline[femur] + outline[tibia]) / 2
        rows.append((x, y, 8.0, max(1.0, 0.35 * float(np.hypot(*(outline[femur] - outline[tibia]))))))
    return np.array(rows)


@dataclass(frozen=True, eq=False)
class Canvas:
    """The pixel grid on which a batch of knees is rendered.

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


def grid_mm(to_mm: Tensor, shape: tuple[int, int], step: int = 1, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Knee coordinates (B, H, W, 2) in mm of every `step`-th pixel, starting at `corner`.

    Args:
        to_mm: (B, 2, 3) from (x, y, 1) in pixels to mm.
        shape: (H, W) of the result.
        step: distance between the sampled pixels, in pixels.
        corner: (x, y) of the first pixel.
    """
    x = corner[0] + step * torch.arange(shape[1], device=to_mm.device, dtype=torch.float32)
    y = corner[1] + step * torch.arange(shape[0], device=to_mm.device, dtype=torch.float32)
    along_x = to_mm[:, None, None, :, 0] * x[None, None, :, None]
    along_y = to_mm[:, None, None, :, 1] * y[None, :, None, None]
    return along_x + along_y + to_mm[:, None, None, :, 2]
