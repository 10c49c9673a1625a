"""Where a knee lies in a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.roi import ROI_WIDTHS, roi_frame

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where millimetres of a knee lie in a picture: pixel = matrix @ mm + offset.

    Attributes:
        matrix: 2 x 2 as rows, rotation times pixels per mm, a mirror for a left knee.
        offset: pixel (x, y) of the knee's origin, the first pixel's centre at (0, 0).
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

    @classmethod
    def level(cls, outline_mm: Array, size_px: int, widths: float = ROI_WIDTHS) -> "Placement":
        """The region of interest of an outline (74, 2): level with the plateau, lateral on the left, no mirror."""
        frame = roi_frame(outline_mm, size_px, widths)
        (a, b), (c, d) = np.linalg.inv(frame.matrix[:, :2]).tolist()
        x, y = frame.to_roi(np.zeros((1, 2)))[0].tolist()
        return cls(((a, b), (c, d)), (float(x), float(y)))

    @property
    def px_per_mm(self) -> float:
        """Pixels per millimetre of the knee."""
        return float(np.sqrt(abs(np.linalg.det(np.asarray(self.matrix)))))

    def to_px(self, points_mm: Array) -> Array:
        """(N, 2) mm → (N, 2) pixels."""
        return np.asarray(points_mm @ np.asarray(self.matrix).T + self.offset)

    def to_mm_matrix(self) -> Array:
        """(2, 3) matrix from (x, y, 1) in pixels to millimetres of the knee."""
        inverse = np.linalg.inv(np.asarray(self.matrix))
        return np.concatenate([inverse, -inverse @ np.asarray(self.offset)[:, None]], axis=1)
