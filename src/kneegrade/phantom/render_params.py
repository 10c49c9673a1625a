"""Everything the renderer needs to know of a knee, as arrays of fixed meaning, so that many knees make one batch.

Signed distance from closed contours, for a batch of contours at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from kneegrade.phantom.bones import TABLE_Y_MM, bones_of
from kneegrade.phantom.phantom_knee import PhantomKnee

Array = NDArray[np.float64]

CHUNK = 2048  # positions compared with all vertices at a time
NOWHERE_MM = 1.0e4


class Polygons(NamedTuple):
    """Closed polygons of B knees, padded to one length.

    Attributes:
        vertices: (B, V, 2) float32 mm; padding lies `NOWHERE_MM` away.
        rest: (B, V, 4 + A) float32: the vertex before, the vertex after (which runs with the inside on its right in a
            y-down frame), and A attributes.
    """

    vertices: Tensor
    rest: Tensor


def polygon(points: Array, attributes: Array, size: int) -> tuple[Array, Array]:
    """A closed polygon (M, 2) with attributes (M, A) in the layout of `Polygons`, padded to `size` vertices."""
    following = np.roll(points, -1, axis=0)
    area = (points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()
    if area < 0:
        points, attributes = points[::-1], attributes[::-1]
    rest = np.concatenate([np.roll(points, 1, axis=0), np.roll(points, -1, axis=0), attributes], axis=1)
    missing = size - len(points)
    return (
        np.pad(points, ((0, missing), (0, 0)), constant_values=NOWHERE_MM),
        np.pad(rest, ((0, missing), (0, 0)), constant_values=NOWHERE_MM),
    )


def signed_distance(polygons: Polygons, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (B, P) in mm, positive inside, and the attributes (B, P, A) of the nearest vertex.

    The distance is that to the two edges at the nearest vertex, which is exact where vertices lie closely. Its sign
    comes from the nearest edge's normal, at a vertex from the mean of its two edges' normals (Bærentzen and Aanæs,
    "Signed distance computation using the angle weighted pseudonormal", IEEE TVCG 2005; in the plane the plain mean
    has the right sign).

    Args:
        polygons: the contours.
        positions: (B, P, 2) float32 mm.
    """
    vertices = polygons.vertices
    # |p - v|² less |p|², which is the same for all vertices, is (x, y, 1) · (-2 v_x, -2 v_y, |v|²)
    right = torch.cat([-2 * vertices, vertices.square().sum(-1, keepdim=True)], -1)
    right = right.transpose(1, 2).contiguous()  # (B, 3, V)
    left = torch.cat([positions, torch.ones_like(positions[..., :1])], -1)  # (B, P, 3)
    parts = [torch.bmm(part, right).argmin(-1) for part in torch.split(left, CHUNK, 1)]
    index = torch.cat(parts, 1).unsqueeze(-1)
    vertex = vertices.gather(1, index.expand(-1, -1, 2))
    rest = polygons.rest.gather(1, index.expand(-1, -1, polygons.rest.shape[-1]))
    before, after, attributes = rest[..., :2], rest[..., 2:4], rest[..., 4:]
    offset_a, square_a, normal_a = _from_edge(positions, vertex, before, -1.0)
    offset_b, square_b, normal_b = _from_edge(positions, vertex, after, 1.0)
    nearer = (square_a < square_b).unsqueeze(-1)
    normal = torch.where(nearer, normal_a, normal_b)
    normal = torch.where((square_a == square_b).unsqueeze(-1), normal_a + normal_b, normal)
    offset = torch.where(nearer, offset_a, offset_b)
    inside = (offset * normal).sum(-1) > 0
    distance = torch.minimum(square_a, square_b).sqrt()
    return torch.where(inside, distance, -distance), attributes


def _from_edge(positions: Tensor, vertex: Tensor, other: Tensor, sense: float) -> tuple[Tensor, Tensor, Tensor]:
    """Offset from the nearest point of the edge vertex–other, its square, and the edge's unit inward normal."""
    edge = other - vertex
    length = edge.square().sum(-1, keepdim=True).clamp(min=1e-12)
    share = ((positions - vertex) * edge).sum(-1, keepdim=True) / length
    offset = positions - vertex - share.clamp(0, 1) * edge
    normal = sense * torch.stack([-edge[..., 1], edge[..., 0]], dim=-1) * length.rsqrt()
    return offset, offset.square().sum(-1), normal


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


def render_params_of(knee: PhantomKnee) -> RenderParams:
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
    return RenderParams(
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


def stack(sheets: Sequence[RenderParams], device: torch.device | str = "cpu") -> RenderParams:
    """A batch of sheets on a device, contours and metal padded to the longest."""
    columns = []
    for name, parts in zip(RenderParams._fields, zip(*sheets, strict=True), strict=True):
        same = list(parts)
        if name in ("vertices", "rest"):
            longest = max(part.shape[1] for part in parts)
            same = [functional.pad(part, (0, 0, 0, longest - part.shape[1]), value=NOWHERE_MM) for part in parts]
        elif name == "bars":
            longest = max(part.shape[0] for part in parts)
            same = [functional.pad(part, (0, 0, 0, longest - part.shape[0])) for part in parts]
        columns.append(torch.stack(same).to(device))
    return RenderParams(*columns)


def _tensor(values: object) -> Tensor:
    """Numbers as float32."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def polygons_of(sheets: RenderParams, bone: int) -> Polygons:
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
