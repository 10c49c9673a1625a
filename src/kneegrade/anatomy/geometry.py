"""Normalised crop of a knee: a square that is level with the tibial plateau and has lateral on its left.

The side of the square is `ROI_PLATEAU_WIDTHS` widths of the tibial plateau, so no pixel spacing is needed. A left knee
is mirrored here and nowhere else: landmarks are numbered from lateral to medial in every knee, and the frame follows
from them.

Coordinates are (x, y) in pixels, x to the right and y down, with the centre of the first pixel at (0, 0).
"""

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

ROI_PLATEAU_WIDTHS = 1.2
TAIL_SHARE = 0.01  # contrast is stretched from the 1st to the 99th percentile

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
    femur_to_tibia = np.nanmean(landmarks_px[TIBIA_BODY], axis=0) - np.nanmean(landmarks_px[FEMUR_BODY], axis=0)
    mirrored = float(femur_to_tibia @ down) < 0
    down = -down if mirrored else down
    x, y = (femur + tibia) / 2
    return Pose((float(x), float(y)), width, (float(down[0]), float(down[1])), mirrored)


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
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)  # (B, 1, S, S)
    last = torch.tensor([width - 1, height - 1], device=images.device, dtype=images.dtype)
    grid = torch.stack([x.mul_(2).div_(last[0]).sub_(1), y.mul_(2).div_(last[1]).sub_(1)], dim=-1)
    crops = functional.grid_sample(images, grid, mode="bilinear", align_corners=True)
    return crops * inside, inside


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
    stretched: Tensor = (crops - rearrange(low, "b -> b 1 1 1")) / rearrange(span, "b -> b 1 1 1")
    return stretched.clamp(0, 1) * inside


def low_high_percentile(values: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the 1st and the 99th percentile of each row, (B,) each; 0 for a row without a counted value.

    The result is that of `torch.nanquantile` with linear interpolation. Only the tails are sorted, which is many times
    faster.

    Args:
        values: (B, N) float.
        counted: (B, N) bool, False for values to leave out; by default all values count.
    """
    if values.device.type == "cpu" and values.dtype == torch.float32:
        kept = [row if counted is None else row[counted[i]] for i, row in enumerate(values)]
        low, high = torch.tensor([_tail_values(row.numpy()) for row in kept]).unbind(1)
        return low, high
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    number = counted.sum(1, keepdim=True)  # (B, 1)
    rank = TAIL_SHARE * (number - 1).clamp(min=0).to(values.dtype)  # counted from either end
    before = rank.floor().long()
    after = torch.minimum(before + 1, (number - 1).clamp(min=0))
    tail = min(values.shape[1], int(TAIL_SHARE * values.shape[1]) + 2)
    lowest = values.masked_fill(~counted, torch.inf).topk(tail, dim=1, largest=False).values
    highest = values.masked_fill(~counted, -torch.inf).topk(tail, dim=1).values
    low, high = (
        torch.lerp(end.gather(1, before), end.gather(1, after), rank - before)[:, 0] for end in (lowest, highest)
    )
    return low.where(number[:, 0] > 0, 0.0), high.where(number[:, 0] > 0, 0.0)


def _tail_values(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the two percentiles of `low_high_percentile` of one row of counted values, by partial sorting."""
    if not len(values):
        return 0.0, 0.0
    rank = np.float32(TAIL_SHARE) * np.float32(len(values) - 1)  # counted from either end
    before = int(rank)
    after, last, share = min(before + 1, len(values) - 1), len(values) - 1, rank - np.float32(before)
    sorted_there = np.partition(values, sorted({before, after, last - after, last - before}))
    low, high = (
        sorted_there[i] + share * (sorted_there[j] - sorted_there[i])
        if share < 0.5
        else sorted_there[j] - (sorted_there[j] - sorted_there[i]) * (1 - share)
        for i, j in ((before, after), (last - before, last - after))
    )
    return float(low), float(high)


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
    pixels_per_crop_pixel = float(np.sqrt(abs(np.linalg.det(frame.matrix[:, :2]))))
    factor = max(1, int(pixels_per_crop_pixel))
    pixels, corner = _part_under(pixels, frame, factor)
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]
    matrix = torch.from_numpy(frame.matrix.copy())[None]
    matrix[..., 2] -= torch.from_numpy(corner)
    if factor > 1:
        image = functional.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)
        matrix = matrix / factor
        matrix[..., 2] -= (factor - 1) / (2 * factor)
    return sample_affine(image, matrix.float(), frame.size_px)


def _part_under(pixels: NDArray[np.float32], frame: RoiFrame, factor: int) -> tuple[NDArray[np.float32], Points]:
    """Return the part of an image under a crop, and the (x, y) of its first pixel, which are multiples of `factor`.

    If the crop extends beyond the image, the part ends at the border of the image; it has at least one pixel.
    """
    last = frame.size_px - 1.0
    corners = frame.to_source(np.array([[0.0, 0.0], [last, 0.0], [0.0, last], [last, last]]))
    limit = np.array([pixels.shape[1] - 1, pixels.shape[0] - 1])
    margin = 2 * factor
    low = np.clip(np.floor(corners.min(0)) - margin, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + margin, 0, limit).astype(int)
    low -= low % factor
    return pixels[low[1] : high[1] + 1, low[0] : high[0] + 1], low.astype(np.float64)


def square_pixels_matrix(aspect: float) -> NDArray[np.float64]:
    """Return the (2, 3) matrix from (x, y, 1) on an image to (x, y) on the image made narrower by `aspect`."""
    return np.array([[1 / aspect, 0.0, (1 / aspect - 1) / 2], [0.0, 1.0, 0.0]])
