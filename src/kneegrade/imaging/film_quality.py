"""Quality checks on the pixels alone: blank, too small, badly exposed or blurred images are not graded.

The thresholds were set on the Chen 2018 training crops and on 125 whole films (Wani and Arora 2021), so that the checks
reject almost none of them; `tests/imaging/test_real_films.py` repeats the measurement when the data are available.
"""

import numpy as np
from numpy.typing import NDArray

from kneegrade.imaging.box_filters import block_means, mirrored_borders
from kneegrade.imaging.quantiles import quantiles
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

MIN_SIDE_PX = 128
BLANK_RANGE = 1e-3  # an image whose 1st and 99th percentile are closer is blank
CLIPPED_MARGIN = 0.002  # a value this close to 0 or 1 counts as clipped
MAX_CLIPPED_FILM = 0.9
MAX_CLIPPED_CROP = 0.5
MIN_GREY_LEVELS = 16  # distinct values after rounding to 8 bits
MIN_RANGE_CROP = 0.1
BLUR_RADIUS_PX = 4
FILM_SIDE_PX = 512
CROP_CHECK_PX = 224  # side of the crops on which the thresholds were set
MAX_SMOOTHNESS_FILM = 0.95  # lenient, because noise-free films are smooth and every crop is checked again
MAX_SMOOTHNESS_CROP = 0.92

BLANK = Finding("blank", "The image is blank, so it is not graded. Check the file.")
TOO_SMALL = Finding(
    "too_small", f"The image has a side of less than {MIN_SIDE_PX} pixels, so it is not graded. Use the original image."
)
EXPOSURE = Finding(
    "exposure",
    "The image is under- or overexposed, so it is not graded: its grey levels contain too little information. Use an "
    "image with a better exposure.",
)
BLUR = Finding("blur", "The image is too blurred to be graded. Use a sharper image.")


def check_film(radiograph: Radiograph) -> tuple[Finding, ...]:
    """Reasons not to grade a whole film: "blank", "too_small", "exposure" or "blur"; empty when there are none."""
    pixels = radiograph.pixels
    findings: tuple[Finding, ...] = (TOO_SMALL,) if min(pixels.shape) < MIN_SIDE_PX else ()
    if _percentile_range(pixels) < BLANK_RANGE:
        return (*findings, BLANK)
    if _has_few_grey_levels(pixels) or clipped_fraction(pixels) > MAX_CLIPPED_FILM:
        findings += (EXPOSURE,)
    if smoothness(block_means(pixels, FILM_SIDE_PX)) > MAX_SMOOTHNESS_FILM:
        findings += (BLUR,)
    return findings


def check_crop(pixels: NDArray[np.float32]) -> tuple[Finding, ...]:
    """Reasons not to grade one knee: "blank", "exposure" or "blur"; empty when there are none.

    Args:
        pixels: (224, 224) float32 in [0, 1], the crop around the joint. Other sizes are not accepted, because
            smoothness depends on the resolution of the crop.

    Raises:
        ValueError: the crop has another shape.
    """
    if pixels.shape != (CROP_CHECK_PX, CROP_CHECK_PX):
        raise ValueError(f"The crop has the shape {pixels.shape}; expected ({CROP_CHECK_PX}, {CROP_CHECK_PX}).")
    contrast = _percentile_range(pixels)
    if contrast < BLANK_RANGE:
        return (BLANK,)
    findings: tuple[Finding, ...] = ()
    if contrast < MIN_RANGE_CROP or clipped_fraction(pixels) > MAX_CLIPPED_CROP:
        findings += (EXPOSURE,)
    if smoothness(pixels.astype(np.float64)) > MAX_SMOOTHNESS_CROP:
        findings += (BLUR,)
    return findings


def grey_levels(pixels: NDArray[np.float32]) -> int:
    """Number of distinct values of pixels in [0, 1] after rounding to 8 bits."""
    coded = np.rint(pixels * 255).astype(np.uint8).reshape(-1)
    return int(np.count_nonzero(np.bincount(coded, minlength=256)))


def _has_few_grey_levels(pixels: NDArray[np.float32]) -> bool:
    """Whether there are fewer than `MIN_GREY_LEVELS`; a few pixels are usually enough to answer."""
    few = pixels[:: max(1, pixels.shape[0] // 64), :: max(1, pixels.shape[1] // 64)]
    return grey_levels(few) < MIN_GREY_LEVELS and grey_levels(pixels) < MIN_GREY_LEVELS


def clipped_fraction(pixels: NDArray[np.float32]) -> float:
    """Fraction of pixels at 0 or at 1 (within `CLIPPED_MARGIN`)."""
    clipped = np.count_nonzero(pixels <= CLIPPED_MARGIN) + np.count_nonzero(pixels >= 1 - CLIPPED_MARGIN)
    return clipped / pixels.size


def smoothness(pixels: NDArray[np.float64]) -> float:
    """Fraction of the gradient that remains after an additional blur: close to 1 for a blurred image.

    The value is the maximum over the two axes of sum |D(B x)| / sum |D x|, where D is the difference of neighbouring
    pixels and B the mean over 9 pixels along the same axis. It is invariant to brightness, contrast and inversion.

    Args:
        pixels: (H, W) real numbers.

    Returns:
        A number from 0 to 1; 1 for a constant image.
    """
    ratios = []
    side = 2 * BLUR_RADIUS_PX + 1
    for axis in (0, 1):
        before = _total_change(pixels, 1, axis)
        # Neighbouring moving means differ by the pixel that enters minus the pixel that leaves, over the side.
        after = _total_change(mirrored_borders(pixels, BLUR_RADIUS_PX, BLUR_RADIUS_PX, axis), side, axis) / side
        ratios.append(float(after / before) if before > 0 else 1.0)
    return max(ratios)


def _total_change(pixels: NDArray[np.float64], step: int, axis: int) -> float:
    """Sum of the absolute differences of pixels that are `step` apart along an axis."""
    change = pixels[step:] - pixels[:-step] if axis == 0 else pixels[:, step:] - pixels[:, :-step]
    return float(np.abs(change, out=change).sum())


def _percentile_range(pixels: NDArray[np.float32]) -> float:
    """Difference of the 99th and the 1st percentile, on a sample of at most about 2048 pixels per side."""
    sample = pixels[:: max(1, pixels.shape[0] // 1024), :: max(1, pixels.shape[1] // 1024)]
    low, high = quantiles(sample, (0.01, 0.99))
    return high - low
