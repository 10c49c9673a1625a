"""Signed distance from closed contours, for a batch of contours at once."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
