"""Everything the renderer needs to know of a knee, as arrays of fixed meaning, so that many knees make one batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.bones import TABLE_Y_MM, bones_of
from kneegrade.phantom.distance import NOWHERE_MM, Polygons, polygon
from kneegrade.phantom.knee import PhantomKnee

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


class Sheet(NamedTuple):
    """One knee, or with a leading axis B a batch of them; float32 but for the key; lengths in mm.

    Attributes:
        vertices, rest: `Polygons` of femur, tibia, fibula: (3, V, 2), (3, V, 4 + 7).
        depth, wall: (3, 341) over `TABLE_Y_MM`: depth of each bone and thickness of its front and back walls.
        leg: (2, 341): half-width of the leg and x of its middle.
        scalars: (10,) in the order of `SCALARS`.
        lines: (L, 10): angle in radians, centre x, y, half-length, strength, bend, three phases, width.
        cysts: (4, 6): centre x, y, half-axes, loss, rim; half-axes 1 and loss 0 where there is none.
        menisci: (2, 4): centre x, y and half-axes of what may be calcified.
        patella: (5,); fabella: (3,).
        bars: (P, 7): start, end, half-width, depth (0 = round rod), 1 for steel or 0 for titanium; P may be 0.
        key: () int64 in [0, 2³¹), what noise and texture are drawn from.
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


def sheet_of(knee: PhantomKnee) -> Sheet:
    """The arrays of one knee, its bones' contours padded to the longest of the three."""
    bones = bones_of(knee)
    longest = max(len(bone.points) for bone in bones)
    polygons = [polygon(bone.points, bone.attributes, longest) for bone in bones]
    rng = np.random.default_rng(np.random.SeedSequence([knee.seed, knee.index, 3]))
    build, (notch_x, notch_y) = knee.build, knee.outline_mm[18]
    of_build = [getattr(build, name) for name in SCALARS[:6]]
    values = [*of_build, notch_x, notch_y, rng.uniform(0.05, 0.45), rng.uniform(5.0, 10.0) + 0.4 * build.flexion_deg]
    cysts = np.tile([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], (MAX_CYSTS, 1))
    for row, cyst in enumerate(build.cysts):
        cysts[row] = (*cyst.centre, *cyst.half, cyst.loss, cyst.rim)
    bars = knee.implant.bars if knee.implant else ()
    metal = [(*bar.start, *bar.end, bar.half_width, bar.depth or 0.0, bar.material == "steel") for bar in bars]
    return Sheet(
        vertices=_tensor([part[0] for part in polygons]),
        rest=_tensor([part[1] for part in polygons]),
        depth=_tensor([bone.depth for bone in bones]),
        wall=_tensor([bone.wall for bone in bones]),
        leg=_tensor(_leg(knee)),
        scalars=_tensor(values),
        lines=_tensor(_lines(knee, rng)),
        cysts=_tensor(cysts),
        menisci=_tensor(_menisci(knee.outline_mm)),
        patella=_tensor(build.patella),
        fabella=_tensor(build.fabella),
        bars=_tensor(np.reshape(metal, (-1, 7))),
        key=torch.tensor(int(rng.integers(2**31))),
    )


def stack(sheets: Sequence[Sheet], device: torch.device | str = "cpu") -> Sheet:
    """A batch of sheets on a device, contours and metal padded to the longest."""
    columns = []
    for name, parts in zip(Sheet._fields, zip(*sheets, strict=True), strict=True):
        same = list(parts)
        if name in ("vertices", "rest"):
            longest = max(part.shape[1] for part in parts)
            same = [functional.pad(part, (0, 0, 0, longest - part.shape[1]), value=NOWHERE_MM) for part in parts]
        elif name == "bars":
            longest = max(part.shape[0] for part in parts)
            same = [functional.pad(part, (0, 0, 0, longest - part.shape[0])) for part in parts]
        columns.append(torch.stack(same).to(device))
    return Sheet(*columns)


def _tensor(values: object) -> Tensor:
    """Numbers as float32."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def polygons_of(sheets: Sheet, bone: int) -> Polygons:
    """The contours of one bone (0 femur, 1 tibia, 2 fibula) of a batch."""
    return Polygons(sheets.vertices[:, bone], sheets.rest[:, bone])


def _leg(knee: PhantomKnee) -> Array:
    """Half-width and middle of the leg over `TABLE_Y_MM`."""
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
    """Growth-plate scars, walls of the condyles, edges about the spines, and lines of no name in femur and tibia."""
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
        (
            rng.uniform(0, np.pi),
            rng.normal(-24, 8),
            notch_y - rng.normal(10, 8),
            rng.uniform(6, 18),
            rng.uniform(0, 0.6),
        ),
        (
            rng.uniform(0, np.pi),
            rng.normal(24, 8),
            notch_y - rng.normal(10, 8),
            rng.uniform(6, 18),
            rng.uniform(0, 0.6),
        ),
    ]
    extra = [(rng.normal(0, 0.008), *rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.5, 1.2)) for _ in rows]
    return np.array([(*row, *more) for row, more in zip(rows, extra, strict=True)], dtype=np.float64)


def _menisci(outline: Array) -> Array:
    """Where the two menisci lie: between the outer thirds of the joint surfaces."""
    rows = []
    for femur, tibia in ((13, 48), (23, 62)):
        x, y = (outline[femur] + outline[tibia]) / 2
        rows.append((x, y, 8.0, max(1.0, 0.35 * float(np.hypot(*(outline[femur] - outline[tibia]))))))
    return np.array(rows)
