"""Images whose pixels are not square: estimate of the stretch from landmarks, resampling, and the search without it.

Some collections store every knee at one size in pixels, so that knees are stretched by different factors. A joint space
that is stretched horizontally looks narrow for its width. The stretch shows in the outline: an affine map of the mean
shape to the landmarks has one scale along the rows and another along the columns of the image.

The detector draws its landmarks towards the shape model, which contains no stretched knees. The ratio of the scales
therefore shows only a part of the stretch: about 0.4 of its logarithm on tight crops, 0.7 on whole films. The image is
resampled and its landmarks are detected again; the change of the ratio tells the part, and the second resampling uses
it. Knees of different shape have ratios that differ by some percent, so ratios within `NATURAL_RATIOS` count as square
pixels.

Landmarks that a person marked show the whole stretch. Such outlines vary more than the detector's, so wider limits hold
for them (`NATURAL_RATIOS_MARKED`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from kneegrade.anatomy.geometry import RoiFrame, square_pixels_matrix
from kneegrade.anatomy.knee import Knee, points_inside
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

Points = NDArray[np.float64]

NATURAL_RATIOS = (0.9, 1.12)  # of scales, of 99 % of knees in images with square pixels
NATURAL_RATIOS_MARKED = (0.88, 1.18)  # of exact outlines; 99 % of 1500 phantom knees: 0.92 … 1.16
TYPICAL_RATIO = 1.02  # of images with square pixels
VISIBLE_SHARE = 0.7  # of the logarithm of the stretch, before it is measured
VISIBLE_SHARES = (0.35, 1.0)  # limits of the measured share
LIMITS = (0.65, 1.7)  # of the estimated stretch
MIN_SCALE = 1e-6  # pixels per mm of an outline from which a ratio is estimated
MIN_OUTLINE_POINTS = 10  # landmarks on the image from which a ratio is estimated
MIN_CONFIDENCE_TO_RESAMPLE = 0.2  # of a detection; images without a knee have at most 0.18
MAX_RESAMPLINGS = 2
CONFIDENCE_TOLERANCE = 0.02  # of landmarks on the resampled image

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

    NaN if fewer than `MIN_OUTLINE_POINTS` landmarks are on the image, or if they are all in one place.

    Its rows are the axes of the image, so rotation and side of the knee do not matter.

    Args:
        landmarks_px: (74, 2) in pixels of the image.
        shape: (H, W) of the image. Landmarks outside are left out.
    """
    seen = points_inside(landmarks_px, shape)
    if seen.sum() < MIN_OUTLINE_POINTS:
        return float("nan")
    known = np.concatenate([_mean_shape()[seen], np.ones((seen.sum(), 1))], axis=1)
    rows = np.linalg.lstsq(known, landmarks_px[seen], rcond=None)[0][:2].T
    horizontal, vertical = np.linalg.norm(rows, axis=1)
    return float(horizontal / vertical) if min(horizontal, vertical) > MIN_SCALE else float("nan")


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


def pixel_aspect_of_marked(knees_px: Points, radiograph: Radiograph) -> float:
    """Return the factor by which a film is stretched horizontally, from exact landmarks of its knees.

    It is the factor that the file declares, if the knees are of natural shape without it. It is 1 if the film has a
    trusted spacing or the knees may be of natural shape.

    Args:
        knees_px: (K, 74, 2) in pixels of the film, marked by a person or mapped from an image with square pixels.
        radiograph: the film.
    """
    if radiograph.pixel_spacing_mm is not None:
        return 1.0
    ratios = [scale_ratio(knee, radiograph.pixels.shape) for knee in knees_px]
    logarithms = np.log([ratio for ratio in ratios if np.isfinite(ratio)])
    if not len(logarithms):
        return 1.0
    ratio = float(np.exp(logarithms.mean()))
    declared = radiograph.pixel_aspect
    if declared is not None and NATURAL_RATIOS_MARKED[0] <= ratio / declared <= NATURAL_RATIOS_MARKED[1]:
        return declared
    if NATURAL_RATIOS_MARKED[0] <= ratio <= NATURAL_RATIOS_MARKED[1]:
        return 1.0
    return float(np.clip(ratio / TYPICAL_RATIO, *LIMITS))


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
    return resized[0, 0].numpy(), square_pixels_matrix(width / columns)


def square_radiograph(radiograph: Radiograph, aspect: float) -> tuple[Radiograph, float]:
    """Return a film without its horizontal stretch, and the exact factor by which it was made narrower.

    The factor differs from `aspect` by rounding to whole columns. It is 1 if the film is returned itself.
    """
    pixels, to_square = with_square_pixels(radiograph.pixels, aspect)
    if pixels is radiograph.pixels:
        return radiograph, 1.0
    return replace(radiograph, pixels=pixels), float(1 / to_square[0, 0])


def in_source(knee: Knee, aspect: float) -> Knee:
    """Return a knee found on an image with square pixels, with landmarks and frame in pixels of its source.

    Args:
        knee: in pixels of the image with square pixels.
        aspect: of `square_radiograph`.
    """
    if aspect == 1:
        return knee
    matrix = square_pixels_matrix(1 / aspect)
    linear, offset = matrix[:, :2], matrix[:, 2:]
    frame = np.concatenate([linear @ knee.frame.matrix[:, :2], linear @ knee.frame.matrix[:, 2:] + offset], axis=1)
    return replace(
        knee, landmarks=knee.landmarks.moved(matrix), frame=RoiFrame(frame, knee.frame.size_px), pixel_aspect=aspect
    )


class Detection(Protocol):
    """A detected knee: its landmarks in pixels of the image, and their confidence, 0 … 1."""

    @property
    def landmarks(self) -> Landmarks: ...  # noqa: D102

    @property
    def confidence(self) -> float: ...  # noqa: D102


Detected = TypeVar("Detected", bound=Detection)


def best_confidence(knees: Iterable[Detection]) -> float:
    """Return the highest confidence of a knee, 0 if there is none."""
    return max((knee.confidence for knee in knees), default=0.0)


@dataclass(frozen=True, eq=False)
class SquareSearch(Generic[Detected]):
    """A film without its stretch, the knees found on it, and the factor by which it was made narrower.

    `is_declared`: the file declares this factor; otherwise it was estimated.
    """

    radiograph: Radiograph
    knees: list[Detected]
    pixel_aspect: float = 1.0
    is_declared: bool = False

    @property
    def confidence(self) -> float:
        """Highest confidence of a knee, 0 if there is none."""
        return best_confidence(self.knees)

    @property
    def ratio(self) -> float:
        """`scale_ratio` of the knee with the highest confidence."""
        best = max(self.knees, key=lambda knee: knee.confidence)
        return scale_ratio(best.landmarks.points_px, self.radiograph.pixels.shape)


def search_square(
    radiograph: Radiograph,
    search: Callable[[NDArray[np.float32]], list[Detected]],
    knees: list[Detected] | None = None,
) -> SquareSearch[Detected]:
    """Return the film without the stretch that its knees show, and the knees found on it.

    A stretch that the file declares is removed if the knees are of natural shape then; otherwise it is estimated.
    A film with a trusted spacing has known pixels and is returned itself. So is a film without a sign of stretch or
    without a knee of some confidence, and one on which fewer or less certain knees are found without the stretch.

    Args:
        radiograph: the film.
        search: finds knees on the pixels (H, W) of an image.
        knees: what `search` finds on the film itself, if it is known.
    """
    result = first = SquareSearch(radiograph, search(radiograph.pixels) if knees is None else knees)
    if radiograph.pixel_spacing_mm is None and radiograph.pixel_aspect is not None:
        square, aspect = square_radiograph(radiograph, radiograph.pixel_aspect)
        found = SquareSearch(square, search(square.pixels), aspect, is_declared=True)
        if found.knees and _is_as_good(found, first) and pixel_aspect(found.ratio) == 1:
            return found
    if radiograph.pixel_spacing_mm is not None or first.confidence < MIN_CONFIDENCE_TO_RESAMPLE:
        return first
    previous: tuple[float, float] | None = None
    for _ in range(MAX_RESAMPLINGS):
        square, aspect = square_radiograph(radiograph, pixel_aspect(first.ratio, previous))
        if square is radiograph:
            break
        found = SquareSearch(square, search(square.pixels), aspect)
        if not _is_as_good(found, result):
            break
        result, previous = found, (aspect, found.ratio)
    return result


def _is_as_good(found: SquareSearch[Detected], other: SquareSearch[Detected]) -> bool:
    """Return whether a search found as many knees as another, with about the same confidence or more."""
    return len(found.knees) >= len(other.knees) and found.confidence >= other.confidence - CONFIDENCE_TOLERANCE
