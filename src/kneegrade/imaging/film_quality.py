"""The quality gate: what in the pixels alone forbids an honest grade.

The thresholds were set on the Chen 2018 training crops and on 125 whole films (Wani and Arora 2021), so that the
gate refuses next to none of them; `tests/imaging/test_quality.py` repeats the measurement where the data are at hand.
"""

import numpy as np
from numpy.typing import NDArray

from kneegrade.imaging.photometry import block_means, box_mean
from kneegrade.imaging.radiograph import Radiograph
from kneegrade.results import Finding

SMALLEST_SIDE_PX = 128
FLAT = 1e-3  # a picture whose 1st and 99th percentile lie closer is blank
CLIPPED = 0.002  # distance from 0 and from 1 that counts as clipped
MAX_CLIPPED_FILM = 0.9
MAX_CLIPPED_REGION = 0.5
MIN_LEVELS = 16  # grey levels, after rounding to 8 bits
MIN_RANGE_REGION = 0.1
BLUR_RADIUS_PX = 4
FILM_SIDE_PX = 512
REGION_PX = 224  # side of the regions that the thresholds were set on
MAX_SMOOTHNESS_FILM = 0.95  # lenient, since films without noise are smooth: each region is judged again
MAX_SMOOTHNESS_REGION = 0.92

BLANK = Finding("blank", "The picture is blank.")
TOO_SMALL = Finding("too_small", f"The picture is smaller than {SMALLEST_SIDE_PX} pixels.")
EXPOSURE = Finding("exposure", "The picture is so under- or over-exposed that its grey values hold too little.")
BLUR = Finding("blur", "The picture is too blurred.")


def check_film(radiograph: Radiograph) -> tuple[Finding, ...]:
    """What forbids to grade a film as a whole: "blank", "too_small", "exposure" or "blur"; empty when sound."""
    pixels = radiograph.pixels
    findings: tuple[Finding, ...] = (TOO_SMALL,) if min(pixels.shape) < SMALLEST_SIDE_PX else ()
    if _range(pixels) < FLAT:
        return (*findings, BLANK)
    levels = len(np.unique(np.rint(pixels * 255)))
    if levels < MIN_LEVELS or clipped_share(pixels) > MAX_CLIPPED_FILM:
        findings += (EXPOSURE,)
    if smoothness(block_means(pixels, FILM_SIDE_PX)) > MAX_SMOOTHNESS_FILM:
        findings += (BLUR,)
    return findings


def check_crop(pixels: NDArray[np.float32]) -> tuple[Finding, ...]:
    """What forbids to grade one knee: "blank", "exposure" or "blur"; empty when sound.

    Args:
        pixels: (224, 224) float32 in [0, 1], the region around the joint. Crops of other sizes are refused,
            because the smoothness of a film depends on the size at which it is cut.

    Raises:
        ValueError: another shape.
    """
    if pixels.shape != (REGION_PX, REGION_PX):
        raise ValueError(f"The region has the shape {pixels.shape}; expected ({REGION_PX}, {REGION_PX}).")
    contrast = _range(pixels)
    if contrast < FLAT:
        return (BLANK,)
    findings: tuple[Finding, ...] = ()
    if contrast < MIN_RANGE_REGION or clipped_share(pixels) > MAX_CLIPPED_REGION:
        findings += (EXPOSURE,)
    if smoothness(pixels.astype(np.float64)) > MAX_SMOOTHNESS_REGION:
        findings += (BLUR,)
    return findings


def clipped_share(pixels: NDArray[np.float32]) -> float:
    """Share of pixels at 0 or at 1."""
    return float(np.mean((pixels <= CLIPPED) | (pixels >= 1 - CLIPPED)))


def smoothness(pixels: NDArray[np.float64]) -> float:
    """What a further blur leaves of the differences between neighbours: near 1 for a blurred picture.

    The larger of the two directions of sum |D(B x)| / sum |D x|, with D the difference of neighbours and B the mean
    over 9 pixels along the same direction. It does not change with brightness, contrast or inversion.

    Args:
        pixels: (H, W) real numbers.

    Returns:
        0 … 1; 1 for a picture without differences.
    """
    shares = []
    for axis in (0, 1):
        before = np.abs(np.diff(pixels, axis=axis)).sum()
        after = np.abs(np.diff(box_mean(pixels, BLUR_RADIUS_PX, axes=(axis,)), axis=axis)).sum()
        shares.append(float(after / before) if before > 0 else 1.0)
    return max(shares)


def _range(pixels: NDArray[np.float32]) -> float:
    low, high = np.percentile(pixels[:: max(1, pixels.shape[0] // 1024), :: max(1, pixels.shape[1] // 1024)], [1, 99])
    return float(high - low)
