"""Images whose pixels are not square: estimate of the stretch from landmarks, and resampling.

Some collections store every knee at one size in pixels, so that knees are stretched by different factors. A joint space
that is stretched horizontally looks narrow for its width. The stretch shows in the outline: an affine map of the mean
shape to the landmarks has one scale along the rows and another along the columns of the image.

The detector draws its landmarks towards the shape model, which contains no stretched knees. The ratio of the scales
therefore shows only a part of the stretch: about 0.4 of its logarithm on tight crops, 0.7 on whole films. The image is
resampled and its landmarks are detected again; the change of the ratio tells the part, and the second resampling uses
it. Knees of different shape have ratios that differ by some percent, so ratios within `NATURAL_RATIOS` count as square
pixels.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from kneegrade.anatomy.geometry import RoiFrame
from kneegrade.anatomy.knee import Knee, points_inside
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.results import Finding

Points = NDArray[np.float64]

NATURAL_RATIOS = (0.9, 1.12)  # of scales, of 99 % of knees in images with square pixels
TYPICAL_RATIO = 1.02  # of images with square pixels
VISIBLE_SHARE = 0.7  # of the logarithm of the stretch, before it is measured
VISIBLE_SHARES = (0.35, 1.0)  # limits of the measured share
LIMITS = (0.65, 1.7)  # of the estimated stretch

NOT_SQUARE = Finding(
    "pixels_not_square",
    "The outline of the knee indicates that this image was stretched in one direction. The stretch was estimated and "
    "removed before grading; provide the original image if there is one.",
)


@cache
def _mean_shape() -> Points:
    """Return the (74, 2) mean shape of knees with KL 1, in millimetres."""
    coefficients = ShapeModel.load().coefficients_mm
    return np.asarray(coefficients[0] + coefficients[1])


def scale_ratio(landmarks_px: Points, shape: tuple[int, ...]) -> float:
    """Return the horizontal scale over the vertical scale of the affine map of the mean shape to the landmarks.

    Its rows are the axes of the image, so rotation and side of the knee do not matter.

    Args:
        landmarks_px: (74, 2) in pixels of the image.
        shape: (H, W) of the image. Landmarks outside are left out.
    """
    seen = points_inside(landmarks_px, shape)
    known = np.concatenate([_mean_shape()[seen], np.ones((seen.sum(), 1))], axis=1)
    rows = np.linalg.lstsq(known, landmarks_px[seen], rcond=None)[0][:2].T
    return float(np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]))


def pixel_aspect(ratio: float, previous: tuple[float, float] | None = None) -> float:
    """Return the estimated factor by which an image is stretched horizontally; 1 if the knee may be of natural shape.

    Args:
        ratio: `scale_ratio` of the landmarks on the image.
        previous: a factor by which the image was made narrower, and `scale_ratio` of the landmarks found then.
    """
    if not np.isfinite(ratio) or NATURAL_RATIOS[0] <= ratio <= NATURAL_RATIOS[1]:
        return 1.0
    share = VISIBLE_SHARE
    if previous is not None:
        share = float(np.clip(np.log(ratio / previous[1]) / np.log(previous[0]), *VISIBLE_SHARES))
    return float(np.clip((ratio / TYPICAL_RATIO) ** (1 / share), *LIMITS))


def with_square_pixels(pixels: NDArray[np.float32], aspect: float) -> tuple[NDArray[np.float32], Points]:
    """Return an image without its horizontal stretch, and the matrix (2, 3) from its (x, y, 1) to the new (x, y).

    Args:
        pixels: (H, W) float32.
        aspect: factor by which the image is stretched horizontally.
    """
    height, width = pixels.shape
    columns = max(1, round(width / aspect))
    if columns == width:
        return pixels, np.eye(2, 3)
    image = torch.from_numpy(np.array(pixels, dtype=np.float32))[None, None]
    resized = functional.interpolate(image, (height, columns), mode="bilinear", antialias=True, align_corners=False)
    scale = columns / width
    return resized[0, 0].numpy(), np.array([[scale, 0.0, (scale - 1) / 2], [0.0, 1.0, 0.0]])


def in_source(knee: Knee, to_square: Points) -> Knee:
    """Return a knee found on an image with square pixels, with landmarks and frame in pixels of its source.

    Args:
        knee: in pixels of the image with square pixels.
        to_square: (2, 3) matrix of `with_square_pixels`.
    """
    whole = np.linalg.inv(np.concatenate([to_square, [[0.0, 0.0, 1.0]]]))
    linear, offset = whole[:2, :2], whole[:2, 2]
    matrix = np.concatenate(
        [linear @ knee.frame.matrix[:, :2], (linear @ knee.frame.matrix[:, 2] + offset)[:, None]], 1
    )
    return replace(knee, landmarks=knee.landmarks.moved(whole[:2]), frame=RoiFrame(matrix, knee.frame.size_px))
