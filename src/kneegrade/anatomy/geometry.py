"""Normalised crop of a knee: a square that is level with the tibial plateau and has lateral on its left.

The side of the square is `ROI_PLATEAU_WIDTHS` widths of the tibial plateau, so no pixel spacing is needed. A left knee
is mirrored here and nowhere else: landmarks are numbered from lateral to medial in every knee, and the frame follows
from them.

Coordinates are (x, y) in pixels, x to the right and y down, with the centre of the first pixel at (0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
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
from kneegrade.anatomy.tail_percentiles import low_high_percentile

ROI_PLATEAU_WIDTHS = 1.2

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Position, size and orientation of a knee in an image, in pixels of that image.

    Attributes:
        centre: (x, y) of the joint: the midpoint between the centroids of the two joint surfaces.
        width: distance between the ends of the tibial plateau (landmarks 47 and 63).
        down: (x, y) unit vector from femur to tibia, perpendicular to the plateau.
        mirrored: True if lateral is on the right when the image is turned so that `down` points down.
    """

    centre: tuple[float, float]
    width: float
    down: tuple[float, float]
    mirrored: bool

    @property
    def across(self) -> float:
        """Horizontal position of the joint in pixels when the image is turned so that the femur is on top."""
        return self.centre[0] * self.down[1] - self.centre[1] * self.down[0]


def pose_of(landmarks_px: Points) -> Pose:
    """Return the pose of a knee.

    Args:
        landmarks_px: (74, 2) float64, each bone from lateral to medial; shaft ends may be NaN.
    """
    plateau = landmarks_px[TIBIA_PLATEAU_MEDIAL] - landmarks_px[TIBIA_PLATEAU_LATERAL]
    width = float(np.hypot(*plateau))
    femur, tibia = landmarks_px[FEMUR_ARTICULAR].mean(0), landmarks_px[TIBIA_ARTICULAR].mean(0)
    down = np.array([-plateau[1], plateau[0]]) / width
    femur_to_tibia = _mean_point(landmarks_px[TIBIA_BODY]) - _mean_point(landmarks_px[FEMUR_BODY])
    mirrored = float(femur_to_tibia @ down) < 0
    down = -down if mirrored else down
    x, y = (femur + tibia) / 2
    return Pose((float(x), float(y)), width, (float(down[0]), float(down[1])), mirrored)


def _mean_point(points: Points) -> Points:
    """Return the mean (2,) of the points that are not NaN."""
    mean: Points = points.mean(0)  # `nanmean` takes ten times as long
    return mean if np.isfinite(mean).all() else np.nanmean(points, axis=0)


@dataclass(frozen=True)
class RoiFrame:
    """Affine map from a square crop to its source image.

    Attributes:
        matrix: (2, 3) float64; maps (x, y, 1) in pixels of the crop to (x, y) in pixels of the source.
        size_px: side of the crop in pixels of the crop.
    """

    matrix: Points
    size_px: int

    @property
    def mirrored(self) -> bool:
        """True if the crop is a mirror image of the source, that is, if lateral is on the right of the source."""
        return float(np.linalg.det(self.matrix[:, :2])) < 0

    def to_source(self, points: Points) -> Points:
        """Map points (N, 2) from pixels of the crop to pixels of the source."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_roi(self, points: Points) -> Points:
        """Map points (N, 2) from pixels of the source to pixels of the crop."""
        inverse = np.linalg.inv(self.matrix[:, :2]).astype(np.float64)
        return (points - self.matrix[:, 2]) @ inverse.T


def frame_at(pose: Pose, size_px: int, plateau_widths: float = ROI_PLATEAU_WIDTHS) -> RoiFrame:
    """Return the frame of the square crop centred on a pose, with lateral on the left and the femur on top.

    Args:
        pose: position, size and orientation of the knee in the source image.
        size_px: side of the crop in pixels of the crop.
        plateau_widths: side of the crop in widths of the tibial plateau.
    """
    down = np.array(pose.down)
    right = np.array([down[1], -down[0]])
    if pose.mirrored:
        right = -right
    axes = plateau_widths * pose.width / size_px * np.stack([right, down], axis=1)  # columns: crop x, crop y
    corner = np.array(pose.centre) - axes @ np.full(2, (size_px - 1) / 2)
    return RoiFrame(np.concatenate([axes, corner[:, None]], axis=1), size_px)


def roi_frame(landmarks_px: Points, size_px: int, plateau_widths: float = ROI_PLATEAU_WIDTHS) -> RoiFrame:
    """Return the frame of the square crop of a knee; see `frame_at`.

    Args:
        landmarks_px: (74, 2) float64 in pixels of the source, each bone from lateral to medial.
        size_px: side of the crop in pixels of the crop.
        plateau_widths: side of the crop in widths of the tibial plateau.
    """
    return frame_at(pose_of(landmarks_px), size_px, plateau_widths)


def sample_affine(images: Tensor, matrices: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Return square crops of a batch of images, sampled by bilinear interpolation, and their coverage masks.

    Args:
        images: (B, 1, H, W) float.
        matrices: (B, 2, 3), each mapping (x, y, 1) in pixels of the crop to (x, y) in pixels of the image.
        size_px: side S of the crops.

    Returns:
        Crops (B, 1, S, S) of the dtype of `images`, zero outside the image, and a mask (B, 1, S, S) bool, True inside
        the image.
    """
    height, width = images.shape[-2:]
    axis = torch.arange(size_px, device=images.device, dtype=images.dtype)
    columns = rearrange(matrices.to(images.dtype), "b xy column -> xy column b 1 1")  # of x, y and the offset
    x, y = (along * axis + (across * axis[:, None] + offset) for along, across, offset in columns)  # (B, S, S)
    inside = _within(x, y, width, height).unsqueeze(1)  # (B, 1, S, S)
    last = torch.tensor([width - 1, height - 1], device=images.device, dtype=images.dtype)
    grid = x.new_empty(*x.shape, 2)
    for i, at in enumerate((x, y)):
        torch.sub(at.mul_(2).div_(last[i]), 1, out=grid[..., i])
    crops = functional.grid_sample(images, grid, mode="bilinear", align_corners=True)
    return _masked(crops, inside), inside


def _within(x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    """Return which points (x, y) are inside an image of this size: bool, in the shape of `x`."""
    if _is_numpy_float(x):  # comparisons of torch are several times slower
        along, down = x.numpy(), y.numpy()
        return torch.from_numpy((along >= 0) & (along <= width - 1) & (down >= 0) & (down <= height - 1))
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values, 0 where the mask is False."""
    if _is_numpy_float(values):  # a product with a mask takes torch three times as long
        return torch.from_numpy(values.numpy() * mask.numpy())
    return values * mask


def _is_numpy_float(values: Tensor) -> bool:
    """Return whether a tensor is float32 on the CPU, where numpy computes what is slow in torch."""
    return values.device.type == "cpu" and values.dtype == torch.float32


def stretch_contrast(crops: Tensor, inside: Tensor) -> Tensor:
    """Return crops rescaled so that the 1st and 99th percentile of each become 0 and 1.

    Args:
        crops: (B, 1, S, S) float.
        inside: (B, 1, S, S) bool, True where the source image covers the crop; percentiles use these pixels alone.

    Returns:
        (B, 1, S, S), clipped to [0, 1]; 0 outside the image.
    """
    every_second = crops[..., ::2, ::2].flatten(1)
    low, high = low_high_percentile(every_second, inside[..., ::2, ::2].flatten(1))
    span = (high - low).clamp(min=1e-4)
    stretched = (crops - rearrange(low, "b -> b 1 1 1")).div_(rearrange(span, "b -> b 1 1 1"))
    return _masked(stretched.clamp_(0, 1), inside)


def extract_crop(pixels: NDArray[np.float32], frame: RoiFrame) -> tuple[Tensor, Tensor]:
    """Return the crop of a radiograph in a frame, and its coverage mask.

    If a crop pixel spans two or more image pixels, the image is first reduced by an integer factor by block averaging,
    which leaves less than two image pixels per crop pixel. The contrast of the image is not changed.

    Args:
        pixels: (H, W) float32.
        frame: of the crop, with side S.

    Returns:
        Crop (1, 1, S, S) float32, zero outside the image, and a mask (1, 1, S, S) bool, True inside the image.
    """
    return extract_crops(pixels, [frame])[0]


def extract_crops(pixels: NDArray[np.float32], frames: Sequence[RoiFrame]) -> list[tuple[Tensor, Tensor]]:
    """Return the crop and the coverage mask of each frame; see `extract_crop`.

    Frames over the same part of the image, such as both orientations of a knee, share its reduction.
    """
    reduced = dict[tuple[int, ...], Tensor]()
    crops = []
    for frame in frames:
        factor = max(1, int(np.sqrt(abs(np.linalg.det(frame.matrix[:, :2])))))  # image pixels per crop pixel
        box = _box_under(pixels.shape, frame, factor)
        if (*box, factor) not in reduced:
            reduced[(*box, factor)] = _reduced_part(pixels, box, factor)
        matrix = torch.from_numpy(frame.matrix.copy())[None]
        matrix[..., 2] -= torch.tensor(box[:2], dtype=matrix.dtype)
        if factor > 1:
            matrix = matrix / factor
            matrix[..., 2] -= (factor - 1) / (2 * factor)
        crops.append(sample_affine(reduced[(*box, factor)], matrix.float(), frame.size_px))
    return crops


def _box_under(shape: tuple[int, ...], frame: RoiFrame, factor: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of an image (H, W) under a crop, its last pixels included.

    Left and top are multiples of `factor`. If the crop extends beyond the image, the part ends at the border of the
    image; it has at least one pixel.
    """
    last = frame.size_px - 1.0
    corners = frame.to_source(np.array([[0.0, 0.0], [last, 0.0], [0.0, last], [last, last]]))
    limit = np.array([shape[1] - 1, shape[0] - 1])
    margin = 2 * factor
    low = np.clip(np.floor(corners.min(0)) - margin, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + margin, 0, limit).astype(int)
    (left, top), (right, bottom) = (low - low % factor).tolist(), high.tolist()
    return left, top, right, bottom


def _reduced_part(pixels: NDArray[np.float32], box: tuple[int, int, int, int], factor: int) -> Tensor:
    """Return a part of an image, (1, 1, h, w), reduced by means over blocks of `factor` by `factor` pixels."""
    left, top, right, bottom = box
    part = np.ascontiguousarray(pixels[top : bottom + 1, left : right + 1], dtype=np.float32)
    image = torch.from_numpy(part)[None, None]
    return functional.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False) if factor > 1 else image


def square_pixels_matrix(aspect: float) -> NDArray[np.float64]:
    """Return the (2, 3) matrix from (x, y, 1) on an image to (x, y) on the image made narrower by `aspect`."""
    return np.array([[1 / aspect, 0.0, (1 / aspect - 1) / 2], [0.0, 1.0, 0.0]])
