"""Closed bone contours in millimetres, built from the 74 landmarks, and the signed distance from them.

The coordinate frame is that of the shape model: origin at landmark 55, x positive towards medial, y positive towards
distal, so the lateral side is on the left. The station u is a position along a contour, expressed as a real-valued
landmark number: u = 11.5 lies halfway between landmarks 11 and 12. The bone shafts extend a contour beyond the first
and last landmark of a bone.

`bone_contour` and `fibula_contour` work on one knee in numpy; `signed_distance` works on a batch of knees in torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

Array = NDArray[np.float64]

STEP_MM = 0.4
JOINT_SHARE = (
    0.3  # share of a spur's base on the joint side; the spur continues the joint surface and tapers to the shaft
)
TIP_MM = 0.5  # standard deviation of the Gaussian that rounds a spur's tip
SHAFT_STATIONS_MM = (14.0, 32.0, 60.0, 100.0, 160.0, 230.0, 320.0)
SPUR_ANCHORS: dict[str, float] = {
    "osteophyte_femur_lateral": 11.6,
    "osteophyte_femur_medial": 24.5,
    "osteophyte_tibia_lateral": 46.7,
    "osteophyte_tibia_medial": 63.3,
}
CHUNK = 2048  # number of positions compared with all vertices at a time
NOWHERE_MM = 1.0e4  # coordinate of padding vertices


@dataclass(frozen=True)
class Spur:
    """One osteophyte, modelled as a bump on the bone's margin.

    Attributes:
        target: name of its grade.
        grade: 1 … 3.
        length_mm: distance of the tip from the margin.
        base_mm: width of the base along the margin; 30 % of it lie on the joint side.
        lift_deg: angle between the spur's axis and the horizontal, positive towards the joint space.
        sharpness: 1 = triangular, > 1 = slender tip on a broad base, < 1 = blunt.
    """

    target: str
    grade: int
    length_mm: float
    base_mm: float
    lift_deg: float
    sharpness: float


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed bone contour.

    Attributes:
        points: (M, 2) float64 mm; the last point connects to the first.
        station: (M,) float64, station u along the landmarks (extrapolated on the shaft).
    """

    points: Array
    station: Array


@dataclass(frozen=True)
class ShaftShape:
    """Shape of a shaft beyond the landmarks: final half-width (mm), lean (mm lateral per mm), taper length (mm)."""

    half_width_mm: float
    lean: float
    taper_mm: float


def bone_contour(outline: Array, bone: str, shaft: ShaftShape, spurs: Sequence[Spur] = ()) -> Contour:
    """The closed contour of "femur" or "tibia", extended by its shaft and with its spurs added."""
    start, away = (0, -1.0) if bone == "femur" else (37, 1.0)
    landmarks = outline[start : start + 37]
    lateral, medial = _shaft(landmarks[0], landmarks[-1], away, shaft)
    control = np.concatenate([lateral[::-1], landmarks, medial])
    parameter, points, control_parameter = _interpolated(control)
    station = np.interp(parameter, control_parameter, np.arange(len(control))) - len(lateral) + start
    for spur in spurs:
        points = raise_spur(points, station, spur)
    return Contour(points, station)


def raise_spur(points: Array, station: Array, spur: Spur) -> Array:
    """Contour points (M, 2) with one spur added at its anchor."""
    anchor = int(np.abs(station - SPUR_ANCHORS[spur.target]).argmin())
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    # Stations increase from lateral to medial, so the joint lies at higher stations than a lateral margin.
    from_joint = (arc[anchor] - arc) * (1 if spur.target.endswith("lateral") else -1)
    base = spur.base_mm * np.where(from_joint < 0, JOINT_SHARE, 1 - JOINT_SHARE)
    height = np.clip(1 - np.abs(from_joint) / base, 0, None) ** spur.sharpness
    height = gaussian_filter1d(height, TIP_MM / STEP_MM)
    height /= height.max()
    outward = -1.0 if spur.target.endswith("lateral") else 1.0
    towards_joint = 1.0 if "femur" in spur.target else -1.0
    lift = np.deg2rad(spur.lift_deg)
    axis = np.array([outward * np.cos(lift), towards_joint * np.sin(lift)])
    return np.asarray(points + spur.length_mm * height[:, None] * axis)


def fibula_contour(outline: Array, head: tuple[float, float], head_half_mm: float, shaft_half_mm: float) -> Contour:
    """The closed contour of the fibula; its station is the depth in mm below the head's centre.

    Args:
        outline: (74, 2) mm.
        head: (x, y) in mm of the head's centre relative to landmark 47 (lateral end of the plateau).
        head_half_mm: half-width of the head.
        shaft_half_mm: half-width of the shaft.
    """
    x, y = outline[47] + np.asarray(head)
    ankle_x = x + 12.0
    depth = np.array([-9.0, -4.0, 4.0, 12.0, 24.0, 45.0, 80.0, 140.0, 220.0, 320.0])  # mm below the head's centre
    relative_half = np.array([0.42, 0.86, 1.0, 0.86, 0.62, 0.5, 0.5, 0.52, 0.5, 0.6])  # relative to the head
    half = np.where(depth > 20, relative_half * 2 * shaft_half_mm, relative_half * head_half_mm)
    centre = np.interp(depth, [-9, 0, 30, 90, 320], [x - 1.5, x, x + 4.0, x + 7.0, ankle_x])
    left = np.stack([centre - half, y + depth], axis=1)
    right = np.stack([centre + half, y + depth], axis=1)
    tip = np.array([[x - 1.0, y - 13.0]])
    _, points, _ = _interpolated(np.concatenate([left[::-1], tip, right]))
    return Contour(points, points[:, 1] - y)


def _interpolated(control: Array) -> tuple[Array, Array, Array]:
    """Points of a cubic spline through control points (N, 2), about `STEP_MM` apart.

    The spline parameter grows with the chord length to the power of 0.6, close to a centripetal parametrisation.

    Returns:
        Spline parameter (M,) of the points, points (M, 2), and spline parameter (N,) of the control points.
    """
    chords = np.hypot(*np.diff(control, axis=0).T)
    control_parameter = np.concatenate([[0.0], np.cumsum(chords**0.6)])
    spline = CubicSpline(control_parameter, control, bc_type="natural")
    parameter = np.linspace(0, control_parameter[-1], int(chords.sum() / STEP_MM))
    return parameter, np.asarray(spline(parameter)), control_parameter


def _shaft(lateral_end: Array, medial_end: Array, away: float, shaft: ShaftShape) -> tuple[Array, Array]:
    """Control points (7, 2) of the shaft's lateral and of its medial border, ordered away from the joint."""
    distance = np.asarray(SHAFT_STATIONS_MM)
    centre_x, centre_y = (lateral_end + medial_end) / 2
    skew = (lateral_end - medial_end)[1] / 2 * np.exp(-distance / 30.0)
    half = np.hypot(*(lateral_end - medial_end)) / 2
    half_width = shaft.half_width_mm + (half - shaft.half_width_mm) * np.exp(-distance / shaft.taper_mm)
    middle = centre_x - shaft.lean * distance
    y = centre_y + away * distance
    return np.stack([middle - half_width, y + skew], axis=1), np.stack([middle + half_width, y - skew], axis=1)


class Polygons(NamedTuple):
    """Closed polygons of B knees, padded to the same length.

    Attributes:
        vertices: (B, V, 2) float32 mm; padding vertices lie at `NOWHERE_MM`.
        rest: (B, V, 4 + A) float32: the previous vertex, the next vertex (in this direction the inside is on the right
            in a y-down frame), and A attributes.
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
    """Signed distance (B, P) in mm, positive inside, and the attributes (B, P, A) of the nearest vertex.

    The distance is measured to the two edges at the nearest vertex, which is exact where vertices are dense. Its sign
    comes from the normal of the nearest edge, and at a vertex from the mean of the normals of its two edges (Bærentzen
    and Aanæs, "Signed distance computation using the angle weighted pseudonormal", IEEE TVCG 2005; in the plane the
    unweighted mean has the correct sign).

    Args:
        polygons: the contours.
        positions: (B, P, 2) float32 mm.
    """
    vertices = polygons.vertices
    # |p - v|² - |p|², which has the same nearest vertex, is (x, y, 1) · (-2 v_x, -2 v_y, |v|²).
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
    """Offset from the nearest point of the edge vertex–other, its squared length, and the edge's unit inward normal."""
    edge = other - vertex
    length = edge.square().sum(-1, keepdim=True).clamp(min=1e-12)
    share = ((positions - vertex) * edge).sum(-1, keepdim=True) / length
    offset = positions - vertex - share.clamp(0, 1) * edge
    normal = sense * torch.stack([-edge[..., 1], edge[..., 0]], dim=-1) * length.rsqrt()
    return offset, offset.square().sum(-1), normal
