"""Normalisation of grey levels: [0, 1] by percentiles of the collimated field, bone bright.

About one in eighty of the public Chen 2018 crops is inverted although no tag declares it. The polarity is therefore
also estimated from the pixels. Every step is even or odd under inversion: the collimated field of an image and of its
negative are equal, the percentiles are exchanged, and the polarity score changes its sign. An image and its negative
therefore give the same normalised pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding

FloatImage = NDArray[np.float32]

REDUCED_SIDE_PX = 128  # long side of the reduced image on which field and polarity are estimated
SAMPLE_SIDE_PX = 1024  # long side of the sample from which percentiles are computed
MIN_BOX_PX = 16  # sides of the reduced image at which no more border lines are removed
FLAT_LINE = 0.01  # a border line is blank when its 94 % central range is below this fraction of the contrast
SATURATED = 0.02  # distance from the minimum or the maximum that counts as saturated, as a fraction of the range
MIN_FIELD = 0.1  # a field below this fraction of its bounding box is discarded
CLIPPED_PERCENT = 0.5  # clipped at each end
TWO_LEGS_WEIGHT = 1.2
TEXTURE_WEIGHT = 1.25
INVERTED_BELOW = -0.25  # for scores closer to zero, the polarity given by the tags is kept

INVERTED = Finding(
    "inverted_by_pixels", "The image is a negative, although its file does not declare this; it was inverted."
)


@dataclass(frozen=True, eq=False)
class CollimatedField:
    """The exposed part of an image.

    Attributes:
        rows: rows of the image between blank borders.
        columns: columns of the image between blank borders.
        mask: (h, w) bool over the reduced image, True inside these rows and columns and outside saturated collimator
            blades.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


def normalise(pixels: NDArray[np.generic], *, rescale: bool = True) -> tuple[FloatImage, tuple[Finding, ...]]:
    """Grey levels in [0, 1] with bone bright, and a finding when the image was inverted.

    Args:
        pixels: (H, W) real numbers of any range; values that are not finite are padding and become 0.
        rescale: clip to the percentiles of the collimated field; False when the values are in [0, 1] already.

    Returns:
        (H, W) float32 in [0, 1]; and the finding "inverted_by_pixels" when the image was a negative.
    """
    grey = np.array(pixels, dtype=np.float32)
    padding = ~np.isfinite(grey)
    if padding.all():
        return np.zeros_like(grey), ()
    if padding.any():
        grey[padding] = np.median(grey[~padding])
    raw = grey
    if rescale:
        grey = _rescale(raw, padding)
    findings: tuple[Finding, ...] = ()
    if looks_inverted(grey):
        # The positive is rescaled from the raw values, so that an image and its negative give identical bits.
        grey = _rescale(-raw, padding) if rescale else 1 - raw
        findings = (INVERTED,)
    grey[padding] = 0
    return grey, findings


def _rescale(grey: FloatImage, padding: NDArray[np.bool_]) -> FloatImage:
    """(H, W) in [0, 1], clipped to the percentiles of the collimated field; zeros for a constant image."""
    low, high = _field_percentiles(grey, padding)
    if not high > low:
        return np.zeros_like(grey)
    scaled = grey - np.float32(low)
    scaled *= np.float32(1 / (high - low))
    return np.asarray(np.clip(scaled, 0, 1, out=scaled), dtype=np.float32)


def _field_percentiles(grey: FloatImage, padding: NDArray[np.bool_]) -> tuple[float, float]:
    """The grey levels that are mapped to 0 and to 1."""
    mask = collimated_field(grey).mask
    step = max(1, -(-max(grey.shape) // SAMPLE_SIDE_PX))
    sample = grey[::step, ::step]
    row = np.arange(0, grey.shape[0], step) * mask.shape[0] // grey.shape[0]
    column = np.arange(0, grey.shape[1], step) * mask.shape[1] // grey.shape[1]
    is_in_field = mask[np.ix_(row, column)] & ~padding[::step, ::step]
    values = sample[is_in_field] if is_in_field.any() else grey[~padding]
    low, high = np.percentile(values, [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT], method="nearest")
    if not high > low:
        low, high = grey.min(), grey.max()
    return float(low), float(high)


def collimated_field(pixels: NDArray[np.generic]) -> CollimatedField:
    """The exposed part of an image, without blank borders and saturated collimator blades that touch the border.

    Args:
        pixels: (H, W) real numbers, finite.
    """
    reduced = block_means(pixels, REDUCED_SIDE_PX)
    rows, columns = _content_box(reduced)
    inside = reduced[rows, columns]
    margin = SATURATED * (inside.max() - inside.min())
    blades = _touches_border(inside <= inside.min() + margin) | _touches_border(inside >= inside.max() - margin)
    kept = ~blades if (~blades).mean() >= MIN_FIELD else np.ones_like(blades)
    mask = np.zeros(reduced.shape, dtype=np.bool_)
    mask[rows, columns] = kept
    row_scale, column_scale = pixels.shape[0] / reduced.shape[0], pixels.shape[1] / reduced.shape[1]
    return CollimatedField(
        slice(round(rows.start * row_scale), round(rows.stop * row_scale)),
        slice(round(columns.start * column_scale), round(columns.stop * column_scale)),
        mask,
    )


def _content_box(reduced: NDArray[np.float64]) -> tuple[slice, slice]:
    """Rows and columns that remain after blank border lines are removed, one after the other."""
    low, high = np.percentile(reduced, [1, 99])
    flat = FLAT_LINE * (high - low)
    top, bottom, left, right = 0, reduced.shape[0], 0, reduced.shape[1]
    while bottom - top > MIN_BOX_PX and right - left > MIN_BOX_PX:
        inside = reduced[top:bottom, left:right]
        border_lines = inside[0], inside[-1], inside[:, 0], inside[:, -1]
        is_blank = [bool(np.ptp(np.percentile(line, [3, 97])) < flat) for line in border_lines]
        if not any(is_blank):
            break
        top, bottom = top + is_blank[0], bottom - is_blank[1]
        left, right = left + is_blank[2], right - is_blank[3]
    rows, columns = reduced.shape  # a line next to a blank border mixes border and image: it is removed too
    return (
        slice(top + (top > 0), bottom - (bottom < rows)),
        slice(left + (left > 0), right - (right < columns)),
    )


def _touches_border(saturated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels connected to the border by a straight run of saturated pixels along a row or a column."""
    connected = np.zeros_like(saturated)
    for axis in (0, 1):
        connected |= np.logical_and.accumulate(saturated, axis=axis)
        connected |= np.flip(np.logical_and.accumulate(np.flip(saturated, axis), axis=axis), axis)
    return connected


def looks_inverted(pixels: NDArray[np.generic]) -> bool:
    """True when the image is a negative: bone dark, air bright."""
    return polarity_score(pixels) < INVERTED_BELOW


def polarity_score(pixels: NDArray[np.generic]) -> float:
    """Polarity of a knee film or crop: positive when bone is bright, negative for a negative, 0 when undecided.

    The score is a weighted sum of three features of a positive, computed on a reduced image of zero mean and unit
    variance. Each is odd under inversion:

    - both ends of the field are darker than its mean;
    - there are two legs with a dark gap between them, measured as the projection of the profile from end to end on
      -cos(4 pi u);
    - dark regions have less texture than bright ones, because air is uniform.

    The ends are left and right or, on a film that lies on its side, top and bottom: the axis with the larger absolute
    score is used.

    Args:
        pixels: (H, W) real numbers, finite.

    Returns:
        A number from about -4 to 4. The score of `c - pixels` is minus the score of `pixels`; a rotation by 90 degrees
        does not change it.
    """
    reduced = block_means(pixels, REDUCED_SIDE_PX)
    inside = reduced[_content_box(reduced)]
    low, high = np.percentile(inside, [1, 99])
    if not high > low:
        return 0.0
    inside = np.clip((inside - low) / (high - low), 0, 1)
    standardised = (inside - inside.mean()) / inside.std()
    texture = TEXTURE_WEIGHT * _brightness_texture_correlation(standardised)
    return max((_profile_score(standardised.mean(axis=axis)) + texture for axis in (0, 1)), key=abs)


def _profile_score(profile: NDArray[np.float64]) -> float:
    """Darkness of the ends of a profile, plus the weighted evidence for two bright legs with a gap between them."""
    end = max(1, len(profile) // 12)
    dark_ends = -0.5 * (profile[:end].mean() + profile[-end:].mean())
    u = (np.arange(len(profile)) + 0.5) / len(profile)
    two_legs = -2 * (np.cos(4 * np.pi * u) * profile).mean()
    return float(dark_ends + TWO_LEGS_WEIGHT * two_legs)


def _brightness_texture_correlation(standardised: NDArray[np.float64]) -> float:
    """Correlation between local brightness and the logarithm of local texture."""
    brightness = box_mean(standardised, 4)
    texture = np.log(box_mean(np.abs(standardised - box_mean(standardised, 2)), 4) + 0.02)
    brightness, texture = brightness - brightness.mean(), texture - texture.mean()
    scale = np.sqrt((brightness**2).sum() * (texture**2).sum())
    return float((brightness * texture).sum() / scale) if scale > 0 else 0.0


def block_means(pixels: NDArray[np.generic], longest_side: int) -> NDArray[np.float64]:
    """The image reduced by means over blocks; an image that is small enough keeps its size.

    Args:
        pixels: (H, W) real numbers.
        longest_side: largest allowed length of the longer side, in pixels.

    Returns:
        (h, w) float64 with max(h, w) <= `longest_side`.
    """
    reduced = np.asarray(pixels)
    for axis in (0, 1):
        size = reduced.shape[axis]
        target = max(1, round(size * min(1.0, longest_side / max(pixels.shape))))
        starts = np.arange(target) * size // target
        counts = np.diff(np.append(starts, size))
        if target == size:
            continue
        sums = reduced.take(starts, axis).astype(np.float64)
        for offset in range(
            1, int(counts.max())
        ):  # line by line of all blocks: np.add.reduceat takes five times longer
            longer = np.flatnonzero(counts > offset)
            block = (longer, slice(None)) if axis == 0 else (slice(None), longer)
            sums[block] += reduced.take(starts[longer] + offset, axis)
        reduced = sums / (counts[:, None] if axis == 0 else counts[None, :])
    return np.asarray(reduced, dtype=np.float64)


def mirrored_borders(values: NDArray[np.float64], before: int, after: int, axis: int) -> NDArray[np.float64]:
    """The values extended along an axis by mirroring, as `numpy.pad` with "symmetric", in a fraction of its time."""
    return values.take(_mirrored_indices(values.shape[axis], before, after), axis)


@lru_cache
def _mirrored_indices(size: int, before: int, after: int) -> NDArray[np.intp]:
    return np.pad(np.arange(size), (before, after), mode="symmetric")


def box_mean(values: NDArray[np.float64], radius: int, axes: tuple[int, ...] = (0, 1)) -> NDArray[np.float64]:
    """Moving mean over 2 radius + 1 pixels along each of the axes, with mirrored borders.

    Example:
        >>> box_mean(np.array([[0.0, 3.0, 6.0]]), 1, axes=(1,)).tolist()
        [[1.0, 3.0, 5.0]]
    """
    side = 2 * radius + 1
    for axis in axes:
        sums = mirrored_borders(values, radius + 1, radius, axis).cumsum(axis)
        last, first = ([slice(None)] * values.ndim for _ in range(2))
        last[axis], first[axis] = slice(side, None), slice(None, -side)
        values = (sums[tuple(last)] - sums[tuple(first)]) / side
    return values
