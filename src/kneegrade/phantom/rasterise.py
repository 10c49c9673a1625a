"""Signed distance from a contour at every pixel, and the contour's nearest point: fast, sub-pixel exact."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]

MARGIN_PX = 3


@dataclass(frozen=True)
class Placement:
    """Where millimetres of a knee lie in a picture: pixel = matrix @ mm + offset.

    Attributes:
        matrix: 2 x 2 as rows, rotation times pixels per mm, a mirror for a left knee.
        offset: pixel (x, y) of the knee's origin.
    """

    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]

    @classmethod
    def of(cls, origin_px: tuple[float, float], px_per_mm: float, rotation_deg: float, mirrored: bool) -> "Placement":
        """A placement by the knee origin's pixel, the scale, a clockwise rotation and the side."""
        angle = np.deg2rad(rotation_deg)
        turn = px_per_mm * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if mirrored:
            turn = turn * [-1.0, 1.0]
        (a, b), (c, d) = turn.tolist()
        return cls(((a, b), (c, d)), (float(origin_px[0]), float(origin_px[1])))

    @property
    def px_per_mm(self) -> float:
        """Pixels per millimetre of the knee."""
        return float(np.sqrt(abs(np.linalg.det(np.asarray(self.matrix)))))

    def to_px(self, points_mm: Array) -> Array:
        """(N, 2) mm → (N, 2) pixels, the first pixel's centre at (0, 0)."""
        return np.asarray(points_mm @ np.asarray(self.matrix).T + self.offset)

    def grid_mm(self, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> tuple[FloatImage, FloatImage]:
        """Coordinates x and y in mm, each (H, W), of the pixels of a window whose first pixel is `origin` (x, y)."""
        inverse = np.linalg.inv(np.asarray(self.matrix)).astype(np.float32)
        across = np.arange(shape[1], dtype=np.float32) + np.float32(origin[0] - self.offset[0])
        along = (np.arange(shape[0], dtype=np.float32) + np.float32(origin[1] - self.offset[1]))[:, None]
        return inverse[0, 0] * across + inverse[0, 1] * along, inverse[1, 0] * across + inverse[1, 1] * along


@dataclass(frozen=True, eq=False)
class DistanceField:
    """Distances in a window of the picture.

    Attributes:
        rows, columns: slices of the window in the picture.
        inside_px: (h, w) float32 distance to the contour in pixels, positive inside.
        nearest: (h, w) int, number of the nearest contour point of those given.
    """

    rows: slice
    columns: slice
    inside_px: FloatImage
    nearest: NDArray[np.intp]


def distance_field(contour_px: Array, shape: tuple[int, int]) -> DistanceField | None:
    """The signed distance field of a closed contour (M, 2) in a picture (H, W), or None where it is not in it.

    Near the contour the distance is measured along its normal, so that edges do not snap to whole pixels.
    """
    low = np.maximum(np.floor(contour_px.min(axis=0)).astype(int) - MARGIN_PX, 0)
    high = np.minimum(np.ceil(contour_px.max(axis=0)).astype(int) + MARGIN_PX + 1, [shape[1], shape[0]])
    if (high <= low).any():
        return None
    width, height = (high - low).tolist()
    points, source = _densify(contour_px - low)
    pad = 12  # so that a border just outside the picture still counts
    cell = np.rint(points).astype(int) + pad
    seen = ((cell >= 0) & (cell < [width + 2 * pad, height + 2 * pad])).all(axis=1)
    inside = _polygon(contour_px - low, width, height)
    if not seen.any():
        far = np.where(inside, np.float32(1e4), np.float32(-1e4))
        return DistanceField(*_window(low, high), far, np.zeros((height, width), dtype=np.intp))
    owner = np.full((height + 2 * pad, width + 2 * pad), -1)
    owner[cell[seen, 1], cell[seen, 0]] = np.flatnonzero(seen)
    found = distance_transform_edt(owner < 0, return_distances=False, return_indices=True)
    near = owner[found[0], found[1]][pad : pad + height, pad : pad + width]
    normals = _inward_normals(points).astype(np.float32)
    offset_x = np.arange(width, dtype=np.float32) - points[:, 0].astype(np.float32)[near]
    offset_y = np.arange(height, dtype=np.float32)[:, None] - points[:, 1].astype(np.float32)[near]
    along = offset_x * normals[:, 0][near] + offset_y * normals[:, 1][near]
    straight = np.hypot(offset_x, offset_y)
    # the polygon is only good to a pixel or so: close by, the normal decides the side
    within = np.where(straight < 2.5, along > 0, inside)
    signed = np.where(within, straight, -straight)
    # near a smooth stretch the normal is exact; about a corner or far away the straight distance is
    exact = (straight < 2.0) | ((straight < 8.0) & (along * signed > 0.64 * straight * straight))
    return DistanceField(*_window(low, high), np.where(exact, along, signed), source[near])


def _window(low: NDArray[np.int_], high: NDArray[np.int_]) -> tuple[slice, slice]:
    """Slices (rows, columns) of a window."""
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _densify(contour: Array) -> tuple[Array, NDArray[np.intp]]:
    """The closed contour at steps of at most half a pixel, and the number of the given point each step stems from."""
    closed = np.concatenate([contour, contour[:1]])
    lengths = np.hypot(*np.diff(closed, axis=0).T)
    arc = np.concatenate([[0.0], np.cumsum(lengths)])
    where = np.arange(0.0, arc[-1], 0.5)
    source = np.clip(np.searchsorted(arc, where, side="right") - 1, 0, len(contour) - 1)
    return np.stack([np.interp(where, arc, closed[:, 0]), np.interp(where, arc, closed[:, 1])], axis=1), source


def _inward_normals(points: Array) -> Array:
    """Unit normals (M, 2) of a closed contour, pointing inside whichever way it runs."""
    tangent = np.roll(points, -2, axis=0) - np.roll(points, 2, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    following = np.roll(points, -1, axis=0)
    area = (points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()
    return np.asarray(np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * np.sign(area))


def _polygon(contour: Array, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width) bool, True inside the contour; wrong by up to one and a half pixels at its border."""
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in contour.tolist()], fill=1, outline=1)
    return np.asarray(canvas, dtype=bool)
