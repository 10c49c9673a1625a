"""The region of interest of one knee: a square, level with the plateau, lateral on the image's left.

Its side is `ROI_PLATEAU_WIDTHS` tibial-plateau widths, so that it needs no pixel spacing. A left knee is mirrored here
and nowhere else: the frame is read off the landmarks, whose order runs lateral → medial in every knee.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kneegrade.anatomy.landmark_scheme import (
    FEMUR_ARTICULAR,
    FEMUR_BODY,
    TIBIA_ARTICULAR,
    TIBIA_BODY,
    TIBIA_PLATEAU_LATERAL,
    TIBIA_PLATEAU_MEDIAL,
)

ROI_PLATEAU_WIDTHS = 1.2
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.0

Points = NDArray[np.float64]


@dataclass(frozen=True)
class RoiFrame:
    """Where a region lies in its source picture.

    Attributes:
        matrix: (2, 3) float64 mapping (x, y, 1) of the region to (x, y) of the source, both in pixels with the first
            pixel's centre at (0, 0).
        size_px: side of the region in its own pixels.
    """

    matrix: Points
    size_px: int

    @property
    def mirrored(self) -> bool:
        """True where the region is the source's mirror image (lateral lies on the source's right)."""
        return float(np.linalg.det(self.matrix[:, :2])) < 0

    def to_source(self, points: Points) -> Points:
        """(N, 2) pixels of the region → pixels of the source."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_roi(self, points: Points) -> Points:
        """(N, 2) pixels of the source → pixels of the region."""
        inverse = np.linalg.inv(self.matrix[:, :2]).astype(np.float64)
        return (points - self.matrix[:, 2]) @ inverse.T


@dataclass(frozen=True)
class Pose:
    """Where a knee lies in a picture: all in pixels of that picture, y pointing down.

    Attributes:
        centre: (x, y) of the joint, the middle of the two articular curves' centroids.
        width: distance of the plateau's ends (landmarks 47 and 63).
        down: unit vector from femur to tibia, perpendicular to the plateau.
        mirrored: True where lateral lies on the right of a viewer who sees `down` pointing down.
    """

    centre: tuple[float, float]
    width: float
    down: tuple[float, float]
    mirrored: bool

    @property
    def across(self) -> float:
        """Place across the film for a viewer to whom the femur is up, in pixels; grows to the viewer's right."""
        return self.centre[0] * self.down[1] - self.centre[1] * self.down[0]


def pose_of(landmarks_px: Points) -> Pose:
    """The pose of a knee from its 74 landmarks (shaft ends may be NaN), lateral → medial in every knee."""
    across = landmarks_px[TIBIA_PLATEAU_MEDIAL] - landmarks_px[TIBIA_PLATEAU_LATERAL]
    width = float(np.hypot(*across))
    femur, tibia = landmarks_px[FEMUR_ARTICULAR].mean(0), landmarks_px[TIBIA_ARTICULAR].mean(0)
    down = np.array([-across[1], across[0]]) / width
    mirrored = (
        float((np.nanmean(landmarks_px[TIBIA_BODY], axis=0) - np.nanmean(landmarks_px[FEMUR_BODY], axis=0)) @ down) < 0
    )
    down = -down if mirrored else down
    x, y = (femur + tibia) / 2
    return Pose((float(x), float(y)), width, (float(down[0]), float(down[1])), mirrored)


def frame_at(pose: Pose, size_px: int, widths: float = ROI_PLATEAU_WIDTHS) -> RoiFrame:
    """The square frame of side `widths` plateau widths about a pose, lateral on its left, femur on top."""
    down = np.array(pose.down)
    right = np.array([down[1], -down[0]])
    if pose.mirrored:
        right = -right
    axes = widths * pose.width / size_px * np.stack([right, down], axis=1)  # columns
    corner = np.array(pose.centre) - axes @ np.full(2, (size_px - 1) / 2)
    return RoiFrame(np.concatenate([axes, corner[:, None]], axis=1), size_px)


def roi_frame(landmarks_px: Points, size_px: int, widths: float = ROI_PLATEAU_WIDTHS) -> RoiFrame:
    """The frame of a knee from its 74 landmarks in source pixels."""
    return frame_at(pose_of(landmarks_px), size_px, widths)


def sample_affine(images: Tensor, matrices: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Regions cut from a batch of pictures by bilinear interpolation, and where they hold pixels.

    Args:
        images: (B, 1, H, W) float.
        matrices: (B, 2, 3) region pixels → picture pixels.
        size_px: S.

    Returns:
        ((B, 1, S, S) same dtype, zero outside the picture; (B, 1, S, S) bool, True inside it).
    """
    height, width = images.shape[-2:]
    axis = torch.arange(size_px, device=images.device, dtype=images.dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    flat = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)  # (S·S, 3)
    with torch.autocast(images.device.type, enabled=False):  # coordinates in bfloat16 would be off by pixels
        points = (flat @ matrices.to(images.dtype).transpose(1, 2)).reshape(-1, size_px, size_px, 2)
    last = torch.tensor([width - 1, height - 1], device=images.device, dtype=images.dtype)
    inside = ((points >= 0) & (points <= last)).all(-1).unsqueeze(1)
    cut = functional.grid_sample(images, 2 * points / last - 1, mode="bilinear", align_corners=True)
    return cut * inside, inside


def stretch_contrast(regions: Tensor, inside: Tensor) -> Tensor:
    """Regions (B, 1, S, S) rescaled so that their own 1st and 99th percentiles become 0 and 1, clipped; padding 0."""
    thinned = regions[..., ::2, ::2].masked_fill(~inside[..., ::2, ::2], torch.nan).flatten(1)
    marks = torch.tensor([LOW_PERCENTILE / 100, HIGH_PERCENTILE / 100], device=regions.device, dtype=regions.dtype)
    low, high = torch.nanquantile(thinned, marks, dim=1).nan_to_num(0.0)
    span = (high - low).clamp(min=1e-4)
    stretched: Tensor = (regions - low.view(-1, 1, 1, 1)) / span.view(-1, 1, 1, 1)
    return stretched.clamp(0, 1) * inside


def extract_crop(pixels: NDArray[np.float32], frame: RoiFrame) -> tuple[Tensor, Tensor]:
    """One region of a film (1, 1, S, S) float32, and where the film covers it (1, 1, S, S) bool.

    A film at least twice as fine as the region is first averaged down by a whole factor, which leaves the film less
    than twice as fine. The contrast is the film's.
    """
    step = float(np.sqrt(abs(np.linalg.det(frame.matrix[:, :2]))))
    factor = max(1, int(step))
    pixels, corner = _around(pixels, frame, factor)
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]
    matrix = torch.from_numpy(frame.matrix.copy())[None]
    matrix[..., 2] -= torch.from_numpy(corner)
    if factor > 1:
        image = functional.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)
        matrix = matrix / factor
        matrix[..., 2] -= (factor - 1) / (2 * factor)
    return sample_affine(image, matrix.float(), frame.size_px)


def _around(pixels: NDArray[np.float32], frame: RoiFrame, factor: int) -> tuple[NDArray[np.float32], Points]:
    """The part of a film that a region lies on, and where its first pixel is (x, y), a multiple of `factor`.

    Where the region runs off the film, the part ends with the film; it holds at least one pixel.
    """
    last = frame.size_px - 1.0
    corners = frame.to_source(np.array([[0.0, 0.0], [last, 0.0], [0.0, last], [last, last]]))
    most = np.array([pixels.shape[1] - 1, pixels.shape[0] - 1])
    room = 2 * factor
    low = np.clip(np.floor(corners.min(0)) - room, 0, most).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + room, 0, most).astype(int)
    low -= low % factor
    return pixels[low[1] : high[1] + 1, low[0] : high[0] + 1], low.astype(np.float64)
