"""Logits and calibrated grades of the network alone for images with known landmarks, with changes at inference.

Shared by the benchmarks. Detector and quality control do not run, so that the effect of the picture on the network is
not mixed with that on the landmarks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from kneegrade import Grader
from kneegrade.anatomy.geometry import extract_crop, roi_frame, stretch_contrast
from kneegrade.anatomy.knee import points_inside
from kneegrade.imaging import normalise
from kneegrade.uncertainty import CalibratedGrades

BATCH = 16
Fill = Literal["zero", "mean", "replicate"]
Normalization = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with the landmarks of its knee.

    Attributes:
        pixels: (H, W) float32, grey levels of any range.
        landmarks_px: (74, 2) float64.
    """

    pixels: NDArray[np.float32]
    landmarks_px: NDArray[np.float64]


@torch.inference_mode()
def graded(
    grader: Grader, pictures: Sequence[Picture], *, fill: Fill = "zero",
    normalization: Normalization = stretch_contrast,
) -> CalibratedGrades:  # fmt: skip
    """Calibrated grades of the pictures.

    Args:
        grader: its network and postprocessor are used.
        pictures: in any number.
        fill: what the crop shows outside the image: "zero" (as `kneegrade grade`), "mean" grey level of the crop, or
            "replicate" the pixels at the border.
        normalization: of a crop (1, 1, S, S) with its mask; default: percentiles, as `kneegrade grade`.
    """
    size = grader.network.config.roi_px
    outputs = []
    for start in range(0, len(pictures), BATCH):
        crops, insides, points, visible = [], [], [], []
        for picture in pictures[start : start + BATCH]:
            pixels, _ = normalise(picture.pixels)
            frame = roi_frame(picture.landmarks_px, size)
            crop, inside = extract_crop(pixels, frame)
            crops.append(filled(normalization(crop, inside), inside, fill))
            insides.append(inside)
            at = frame.to_roi(picture.landmarks_px)
            points.append(at)
            visible.append(points_inside(at, (size, size)) & points_inside(picture.landmarks_px, pixels.shape))
        crop, mask = torch.cat(crops).to(memory_format=torch.channels_last), torch.cat(insides)
        seen = torch.from_numpy(np.stack(visible))
        outputs.append(grader.network(crop, torch.from_numpy(np.stack(points)).float(), seen, mask).logits)
    return grader.postprocessor({name: torch.cat([o[name] for o in outputs]) for name in outputs[0]})


def filled(crop: Tensor, inside: Tensor, fill: Fill) -> Tensor:
    """(1, 1, S, S) with the pixels outside the image filled."""
    if fill == "zero" or bool(inside.all()) or not bool(inside.any()):
        return crop
    if fill == "mean":
        return torch.where(inside, crop, crop[inside].mean())
    row, column = distance_transform_edt(~inside[0, 0].numpy(), return_distances=False, return_indices=True)
    return crop[:, :, torch.from_numpy(row.astype(np.int64)), torch.from_numpy(column.astype(np.int64))]
