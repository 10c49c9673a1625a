"""`CropBatches`: batches of crops in the size that a network reads, resampled from the pictures of a dataset."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.training.augmentation import (
    AugmentationParams,
    augment_covered_images,
    augment_landmarks,
    crop_matrices,
)
from kneegrade.training.dataset import KneeDataset

MAX_GPU_MEMORY_SHARE = 0.5  # of a GPU's free memory for the pictures of a dataset


@dataclass(frozen=True)
class Batch:
    """Crops of B knees.

    Attributes:
        roi: (B, 1, S, S) float32 in [0, 1].
        landmarks_px: (B, 74, 2) float32 (x, y) in pixels of `roi`.
        visible: (B, 74) bool, True where the landmark is known and lies in `roi`, on the film.
    """

    roi: Tensor
    landmarks_px: Tensor
    visible: Tensor


class CropBatches:
    """The pictures of a dataset as uint8, in main memory or on the GPU, from which batches of crops are resampled.

    Pictures whose resolution is at least twice that of the crop are downsampled once by an integer factor, as films
    are before they are cropped.

    Args:
        dataset: the knees.
        size_px: side S of a crop.
        device: where batches are made. A GPU holds the pictures too if they fit.
    """

    def __init__(self, dataset: KneeDataset, size_px: int, device: torch.device | str = "cpu") -> None:
        self.size_px, self.device = size_px, torch.device(device)
        frames = dataset.frames(size_px)
        factor = max(1, int(np.median(np.sqrt(np.abs(np.linalg.det(frames[:, :, :2]))))))
        self.images: NDArray[np.uint8] | Tensor = downsample(dataset.images, factor)
        offset = (factor - 1) / 2  # centre of the first block of pixels
        frames[:, :, 2] -= offset
        self.frames = torch.from_numpy(frames / factor)
        self.landmarks_px = torch.from_numpy((dataset.landmarks_px - offset) / factor)
        self.visible = torch.from_numpy(dataset.visible)
        if self.device.type == "cuda":
            free_bytes = torch.cuda.mem_get_info(self.device)[0]
            if self.images.nbytes < MAX_GPU_MEMORY_SHARE * free_bytes:
                self.images = torch.from_numpy(np.ascontiguousarray(self.images)).to(self.device)

    def batch(self, rows: NDArray[np.int64], params: AugmentationParams) -> Batch:
        """Augmented crops of `rows`; one matrix per knee transforms both picture and landmarks.

        Args:
            rows: (B,) of the dataset.
            params: augmentation of each of the B knees.
        """
        params, index = params.to(self.device), torch.from_numpy(rows)
        matrices = crop_matrices(self.frames[index].to(self.device), params, self.size_px)
        images = self.images
        if isinstance(images, Tensor):
            pictures = images[index.to(images.device)]
        else:
            pictures = torch.from_numpy(images[rows]).to(self.device)
        landmarks, visible = self.landmarks_px[index].to(self.device), self.visible[index].to(self.device)
        points, seen = augment_landmarks(landmarks, visible, matrices, params, self.size_px)
        roi, covered = augment_covered_images(pictures, matrices, params, self.size_px)
        if params.styles is not None:  # collimation hides landmarks
            x, y = points.round().long().clamp(0, self.size_px - 1).unbind(2)
            seen = seen & covered[torch.arange(len(covered), device=self.device)[:, None], 0, y, x]
        return Batch(roi.contiguous(memory_format=torch.channels_last), points, seen)


def downsample(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means over blocks of factor × factor pixels; 0 (outside the film) where any pixel of the block is 0.

    Args:
        images: (N, H, W).
        factor: H and W are truncated to a multiple of it; 1 returns `images` itself.
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
