"""Grey values of one meaning: [0, 1] by percentiles of the collimated field, bone bright.

About one in eighty of the public Chen 2018 crops is inverted without any tag that says so, hence the polarity is
read from the pixels too. Everything here is odd or even under inversion by construction: the field of a picture and
of its negative is the same, the percentiles mirror each other, the inversion score changes its sign, so a picture
and its negative end in the same pixels.

Block means and box means, the two averages that photometry and the quality gate look through.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kneegrade.results import Finding


def block_means(pixels: NDArray[np.generic], longest_side: int) -> NDArray[np.float64]:
    """Means over blocks, so that the longer side has at most `longest_side` pixels; smaller pictures as they are.

    Args:
        pixels: (H, W) real numbers.
        longest_side: wanted length of the longer side.

    Returns:
        (h, w) float64.
    """
    reduced = np.asarray(pixels)
    for axis in (0, 1):
        size = reduced.shape[axis]
        target = max(1, round(size * min(1.0, longest_side / max(pixels.shape))))
        starts = np.arange(target) * size // target
        counts = np.diff(np.append(starts, size))
        sums = np.add.reduceat(reduced, starts, axis=axis, dtype=np.float64)
        reduced = sums / (counts[:, None] if axis == 0 else counts[None, :])
    return np.asarray(reduced, dtype=np.float64)


def box_mean(values: NDArray[np.float64], radius: int, axes: tuple[int, ...] = (0, 1)) -> NDArray[np.float64]:
    """Means over 2 radius + 1 pixels along each of the axes, borders mirrored.

    Example:
        >>> box_mean(np.array([[0.0, 3.0, 6.0]]), 1, axes=(1,)).tolist()
        [[1.0, 3.0, 5.0]]
    """
    side = 2 * radius + 1
    for axis in axes:
        width = [(0, 0)] * values.ndim
        width[axis] = (radius + 1, radius)
        sums = np.moveaxis(np.pad(values, width, mode="symmetric").cumsum(axis), axis, 0)
        sums[:] = sums - sums[0]
        values = np.moveaxis((sums[side:] - sums[:-side]) / side, 0, axis)
    return values


Grey = NDArray[np.float32]

REDUCED_SIDE = 128  # long side, in pixels, of the picture that field and polarity are judged on
SAMPLED_SIDE = 1024  # long side, in pixels, of the sample that percentiles are taken of
FLAT_LINE = 0.01  # a border line is blank when 94 % of it spans less than this share of the contrast
SATURATED = 0.02  # distance from the darkest or the brightest value that counts as saturated
MIN_FIELD = 0.1  # a field smaller than this share of its box is not believed
CLIPPED_PERCENT = 0.5  # clipped at each end
TWO_LEGS_WEIGHT = 1.2
TEXTURE_WEIGHT = 1.25
INVERTED_BELOW = -0.25  # scores closer to zero carry no verdict: the tags stand

INVERTED = Finding(
    "inverted_by_pixels", "The picture was a negative although its file does not say so; it was inverted."
)


@dataclass(frozen=True, eq=False)
class CollimatedField:
    """Where the picture holds exposed film.

    Attributes:
        rows: rows of the picture between blank borders.
        columns: columns of the picture between blank borders.
        mask: (h, w) bool over the reduced picture, True inside the box and off the saturated blades.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


def normalise(pixels: NDArray[np.generic], *, rescale: bool = True) -> tuple[Grey, tuple[Finding, ...]]:
    """Grey values in [0, 1] with bone bright, and what was done to them.

    Args:
        pixels: (H, W) real numbers of any range; what is not finite is padding and becomes 0.
        rescale: clip to the percentiles of the collimated field; False when the values are in [0, 1] already.

    Returns:
        (H, W) float32 in [0, 1], and the finding "inverted_by_pixels" when the picture was a negative.
    """
    grey = np.array(pixels, dtype=np.float32)
    padding = ~np.isfinite(grey)
    if padding.all():
        return np.zeros_like(grey), ()
    if padding.any():
        grey[padding] = np.median(grey[~padding])
    raw = grey
    if rescale:
        grey = _rescaled(raw, padding)
    findings: tuple[Finding, ...] = ()
    if looks_inverted(grey):
        # A negative is read again as the positive it is, so that both give the same bits.
        grey = _rescaled(-raw, padding) if rescale else 1 - raw
        findings = (INVERTED,)
    grey[padding] = 0
    return grey, findings


def _rescaled(grey: Grey, padding: NDArray[np.bool_]) -> Grey:
    """(H, W) clipped to the percentiles of the collimated field, in [0, 1]; zeros where all is one value."""
    low, high = _percentiles(grey, padding)
    if not high > low:
        return np.zeros_like(grey)
    scaled = grey - np.float32(low)
    scaled *= np.float32(1 / (high - low))
    return np.asarray(np.clip(scaled, 0, 1, out=scaled), dtype=np.float32)


def looks_inverted(pixels: NDArray[np.generic]) -> bool:
    """True when the picture is a negative: bone dark, air bright."""
    return inversion_score(pixels) < INVERTED_BELOW


def inversion_score(pixels: NDArray[np.generic]) -> float:
    """Polarity of a knee film or crop: positive where bone is bright, negative on its negative, 0 when undecided.

    Three signs of a positive, each odd under inversion, read from a reduced picture of zero mean and unit variance:
    both ends of the field are darker than its mean; two legs with a dark gap between them, as the share of
    -cos(4 pi u) in the profile from end to end; dark regions have less texture than bright ones (air is flat).
    Ends are left and right or, on a film that lies on its side, top and bottom: the clearer verdict counts.

    Args:
        pixels: (H, W) real numbers, finite.

    Returns:
        About -4 … 4; the score of `c - pixels` is minus the score of `pixels`, a quarter turn does not change it.
    """
    reduced = block_means(pixels, REDUCED_SIDE)
    inside = reduced[_box(reduced)]
    low, high = np.percentile(inside, [1, 99])
    if not high > low:
        return 0.0
    inside = np.clip((inside - low) / (high - low), 0, 1)
    standard = (inside - inside.mean()) / inside.std()
    texture = TEXTURE_WEIGHT * _texture_of_bright(standard)
    return max((_ends_and_legs(standard.mean(axis=axis)) + texture for axis in (0, 1)), key=abs)


def _ends_and_legs(profile: NDArray[np.float64]) -> float:
    """How dark the ends are, and how much two bright legs with a gap between them are in a profile."""
    end = max(1, len(profile) // 12)
    dark_ends = -0.5 * (profile[:end].mean() + profile[-end:].mean())
    u = (np.arange(len(profile)) + 0.5) / len(profile)
    two_legs = -2 * (np.cos(4 * np.pi * u) * profile).mean()
    return float(dark_ends + TWO_LEGS_WEIGHT * two_legs)


def collimated_field(pixels: NDArray[np.generic]) -> CollimatedField:
    """The exposed part of a picture: without blank borders and without saturated blades that reach the border.

    Args:
        pixels: (H, W) real numbers, finite.
    """
    reduced = block_means(pixels, REDUCED_SIDE)
    rows, columns = _box(reduced)
    inside = reduced[rows, columns]
    margin = SATURATED * (inside.max() - inside.min())
    blades = _reaches_border(inside <= inside.min() + margin) | _reaches_border(inside >= inside.max() - margin)
    kept = ~blades if (~blades).mean() >= MIN_FIELD else np.ones_like(blades)
    mask = np.zeros(reduced.shape, dtype=np.bool_)
    mask[rows, columns] = kept
    up_row, up_column = pixels.shape[0] / reduced.shape[0], pixels.shape[1] / reduced.shape[1]
    return CollimatedField(
        slice(round(rows.start * up_row), round(rows.stop * up_row)),
        slice(round(columns.start * up_column), round(columns.stop * up_column)),
        mask,
    )


def _percentiles(grey: Grey, padding: NDArray[np.bool_]) -> tuple[float, float]:
    """Grey values that become 0 and 1."""
    mask = collimated_field(grey).mask
    step = max(1, -(-max(grey.shape) // SAMPLED_SIDE))
    sample = grey[::step, ::step]
    row = np.arange(0, grey.shape[0], step) * mask.shape[0] // grey.shape[0]
    column = np.arange(0, grey.shape[1], step) * mask.shape[1] // grey.shape[1]
    counted = mask[np.ix_(row, column)] & ~padding[::step, ::step]
    values = sample[counted] if counted.any() else grey[~padding]
    low, high = np.percentile(values, [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT], method="nearest")
    if not high > low:
        low, high = grey.min(), grey.max()
    return float(low), float(high)


def _box(reduced: NDArray[np.float64]) -> tuple[slice, slice]:
    """Rows and columns that remain when blank border lines are taken off one after the other."""
    low, high = np.percentile(reduced, [1, 99])
    flat = FLAT_LINE * (high - low)
    top, bottom, left, right = 0, reduced.shape[0], 0, reduced.shape[1]
    smallest = 16
    while bottom - top > smallest and right - left > smallest:
        inside = reduced[top:bottom, left:right]
        blank = [bool(np.ptp(np.percentile(line, [3, 97])) < flat) for line in _border_lines(inside)]
        if not any(blank):
            break
        top, bottom = top + blank[0], bottom - blank[1]
        left, right = left + blank[2], right - blank[3]
    rows, columns = reduced.shape  # a line next to a border is part border, part picture: it goes too
    return (
        slice(top + (top > 0), bottom - (bottom < rows)),
        slice(left + (left > 0), right - (right < columns)),
    )


def _border_lines(inside: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    return inside[0], inside[-1], inside[:, 0], inside[:, -1]


def _reaches_border(saturated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that a straight run of saturated pixels joins to the border."""
    reached = np.zeros_like(saturated)
    for axis in (0, 1):
        reached |= np.logical_and.accumulate(saturated, axis=axis)
        reached |= np.flip(np.logical_and.accumulate(np.flip(saturated, axis), axis=axis), axis)
    return reached


def _texture_of_bright(standard: NDArray[np.float64]) -> float:
    """Correlation of local brightness with the logarithm of local texture."""
    brightness = box_mean(standard, 4)
    texture = np.log(box_mean(np.abs(standard - box_mean(standard, 2)), 4) + 0.02)
    brightness, texture = brightness - brightness.mean(), texture - texture.mean()
    scale = np.sqrt((brightness**2).sum() * (texture**2).sum())
    return float((brightness * texture).sum() / scale) if scale > 0 else 0.0
