"""`CropBatches`: batches of what a network sees, cut from a store on the device where it is needed."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.training.augmentation import AugmentationParams, augment_images, augment_landmarks, crop_matrices
from kneegrade.training.dataset import KneeDataset

ROOM_SHARE = 0.5  # of a GPU's free memory that pictures may take


@dataclass(frozen=True)
class Batch:
    """B regions of interest.

    Attributes:
        roi: (B, 1, S, S) float32 in [0, 1].
        landmarks_px: (B, 74, 2) float32 in pixels of `roi`.
        visible: (B, 74) bool.
    """

    roi: Tensor
    landmarks_px: Tensor
    visible: Tensor


class CropBatches:
    """The pictures of a store, as uint8 in memory or on the GPU, from which batches are cut.

    Pictures at least twice as fine as the region are averaged down once by a whole factor, as a film is before it is
    cut.

    Args:
        store: knees.
        size_px: side S of a region.
        device: where batches are cut; a GPU holds the pictures too where they fit.
    """

    def __init__(self, store: KneeDataset, size_px: int, device: torch.device | str = "cpu") -> None:
        self.size_px, self.device = size_px, torch.device(device)
        frames = store.frames(size_px)
        factor = max(1, int(np.median(np.sqrt(np.abs(np.linalg.det(frames[:, :, :2]))))))
        self.images: NDArray[np.uint8] | Tensor = averaged_down(store.images, factor)
        offset = (factor - 1) / 2
        frames[:, :, 2] -= offset
        self.frames = torch.from_numpy(frames / factor)
        self.landmarks_px = torch.from_numpy((store.landmarks_px - offset) / factor)
        self.visible = torch.from_numpy(store.visible)
        if self.device.type == "cuda" and self.images.nbytes < ROOM_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            self.images = torch.from_numpy(np.ascontiguousarray(self.images)).to(self.device)

    def batch(self, rows: NDArray[np.int64], changes: AugmentationParams) -> Batch:
        """The regions of `rows`, changed; pictures and landmarks by one matrix."""
        changes, index = changes.to(self.device), torch.from_numpy(rows)
        matrices = crop_matrices(self.frames[index].to(self.device), changes, self.size_px)
        images = self.images
        if isinstance(images, Tensor):
            pictures = images[index.to(images.device)]
        else:
            pictures = torch.from_numpy(images[rows]).to(self.device)
        landmarks, visible = self.landmarks_px[index].to(self.device), self.visible[index].to(self.device)
        points, seen = augment_landmarks(landmarks, visible, matrices, changes, self.size_px)
        roi = augment_images(pictures, matrices, changes, self.size_px)
        return Batch(roi.contiguous(memory_format=torch.channels_last), points, seen)


def averaged_down(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means over blocks of factor × factor pixels; 0, outside the film, where any of them is.

    Args:
        images: (N, H, W).
        factor: 1 gives the pictures back; H and W are cut to a multiple of it.
    """
    if factor == 1:
        return images
    height, width = (side // factor for side in images.shape[1:])
    result = np.empty((len(images), height, width), dtype=np.uint8)
    for start in range(0, len(images), 64):
        part = images[start : start + 64, : height * factor, : width * factor]
        blocks = part.reshape(-1, height, factor, width, factor)
        mean = np.rint(blocks.mean((2, 4), dtype=np.float32))
        result[start : start + 64] = np.where((blocks == 0).any((2, 4)), 0, mean)
    return result
