"""Normalisation of grey levels: [0, 1] by percentiles of the collimated field, bone bright.

About one in eighty of the public Chen 2018 crops is inverted although no tag declares it. The polarity is therefore
also estimated from the pixels. Every step is even or odd under inversion: the collimated field of an image and of its
negative are equal, the percentiles are exchanged, and the polarity score changes its sign. An image and its negative
therefore give the same normalised pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.imaging.box_filters import block_means, box_mean, scaled_to_unit_range
from kneegrade.imaging.quantiles import nearest_quantiles, quantiles
from kneegrade.results import Finding

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]
Lines = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

REDUCED_SIDE_PX = 128  # long side of the reduced image on which field and polarity are estimated
SAMPLE_SIDE_PX = 1024  # long side of the sample from which percentiles are computed
MIN_BOX_PX = 16  # sides of the reduced image at which no more border lines are removed
FLAT_LINE = 0.01  # a border line is blank when its 94 % central range is below this fraction of the contrast
SATURATED = 0.02  # distance from the minimum or the maximum that counts as saturated, as a fraction of the range
MIN_FIELD = 0.1  # a field below this fraction of its bounding box is discarded
MIN_SURROUND = 0.4  # grey level of a bright surround
WHITE_BORDER = 0.85  # grey level of a surround at one side
SURROUND_LINE = 0.8  # share of the pixels of a line that are bright if it belongs to the surround
CLIPPED_SHARE = 0.005  # clipped at each end
TWO_LEGS_WEIGHT = 1.2
TEXTURE_WEIGHT = 1.25
INVERTED_BELOW = -0.25  # for scores closer to zero, the polarity given by the tags is kept

INVERTED = Finding(
    "inverted_by_pixels", "The image is a negative, although its file does not declare this; it was inverted."
)


@dataclass(frozen=True, eq=False)
class NormalisedImage:
    """Grey levels in [0, 1] with bone bright, and how the polarity was decided.

    Attributes:
        pixels: (H, W) float32 in [0, 1].
        score: `polarity_score` of the image before it was inverted.
        inverted: True when the image was inverted because of its score.
        padding: (H, W) bool, True for padding, whose pixels are 0; None when there is none.
    """

    pixels: FloatImage
    score: float = 0.0
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None


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
    image = normalised_image(pixels, rescale=rescale)
    return image.pixels, (INVERTED,) if image.inverted else ()


def normalised_image(pixels: NDArray[np.generic], *, rescale: bool = True) -> NormalisedImage:
    """The image with grey levels in [0, 1] and bone bright; see `normalise`."""
    grey = np.asarray(pixels, dtype=np.float32)
    padding = _padding(grey)
    if padding is not None and padding.all():
        return NormalisedImage(np.zeros_like(grey), padding=padding)
    if padding is not None or not rescale:
        grey = grey.copy()
    if padding is not None:
        grey[padding] = np.median(grey[~padding])
    raw = grey
    if rescale:
        grey = _rescale(raw, padding)
    score = polarity_score(grey)
    inverted = score < INVERTED_BELOW
    if inverted:
        # The positive is rescaled from the raw values, so that an image and its negative give identical bits.
        grey = _rescale(-raw, padding) if rescale else 1 - raw
    if padding is not None:
        grey[padding] = 0
    return NormalisedImage(grey, score, inverted, padding)


def _padding(grey: FloatImage) -> Mask | None:
    """(H, W) True where a value is not finite; None if all are finite."""
    finite = np.isfinite(grey)
    return None if finite.all() else ~finite


def _rescale(grey: FloatImage, padding: Mask | None) -> FloatImage:
    """(H, W) in [0, 1], clipped to the percentiles of the collimated field; zeros for a constant image."""
    low, high = _field_percentiles(grey, padding)
    if not high > low:
        return np.zeros_like(grey)
    return scaled_to_unit_range(grey, low, high)


def _field_percentiles(grey: FloatImage, padding: Mask | None) -> tuple[float, float]:
    """The grey levels that are mapped to 0 and to 1."""
    low, high = nearest_quantiles(field_values(grey, padding), (CLIPPED_SHARE, 1 - CLIPPED_SHARE))
    return (low, high) if high > low else (float(grey.min()), float(grey.max()))


def field_values(grey: FloatImage, padding: Mask | None) -> FloatImage:
    """(N,) grey levels of a sample of the collimated field, without padding; all of them when the field is padding."""
    mask = collimated_field(grey).mask
    step = max(1, -(-max(grey.shape) // SAMPLE_SIDE_PX))
    sample = grey[::step, ::step]
    row = np.arange(0, grey.shape[0], step) * mask.shape[0] // grey.shape[0]
    column = np.arange(0, grey.shape[1], step) * mask.shape[1] // grey.shape[1]
    is_in_field = mask[np.ix_(row, column)]
    if padding is not None:
        is_in_field &= ~padding[::step, ::step]
    if is_in_field.any():
        return sample[is_in_field]
    return grey.reshape(-1) if padding is None else grey[~padding]


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
    return CollimatedField(*_in_full_size((rows, columns), reduced, pixels), mask)


def _content_box(reduced: NDArray[np.float64]) -> tuple[slice, slice]:
    """Rows and columns that remain after blank border lines are removed, one after the other."""
    flat = FLAT_LINE * _range(reduced, 0.01)
    top, bottom, left, right = _trimmed(reduced, lambda lines: [_range(line, 0.03) < flat for line in lines])
    rows, columns = reduced.shape  # a line next to a blank border mixes border and image: it is removed too
    return (
        slice(top + (top > 0), bottom - (bottom < rows)),
        slice(left + (left > 0), right - (right < columns)),
    )


def _range(values: NDArray[np.float64], tail: float) -> float:
    """Difference of the quantiles that leave out a share of the values at each end."""
    low, high = quantiles(values, (tail, 1 - tail))
    return high - low


def _borders(image: NDArray[Any]) -> Lines:
    """The first and the last row, the first and the last column."""
    return image[0], image[-1], image[:, 0], image[:, -1]


def _trimmed(image: NDArray[Any], removes: Callable[[Lines], list[bool]]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what remains after border lines are removed, one after the other.

    Args:
        image: (H, W).
        removes: for the four border lines of a part of the image, whether each is removed.
    """
    top, bottom, left, right = 0, image.shape[0], 0, image.shape[1]
    while bottom - top > MIN_BOX_PX and right - left > MIN_BOX_PX:
        removed = removes(_borders(image[top:bottom, left:right]))
        if not any(removed):
            break
        top, bottom = top + removed[0], bottom - removed[1]
        left, right = left + removed[2], right - removed[3]
    return top, bottom, left, right


def _in_full_size(part: tuple[slice, slice], reduced: NDArray[Any], image: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns of the image for those of its reduced copy."""
    scales = (whole / small for whole, small in zip(image.shape, reduced.shape, strict=True))
    rows, columns = (
        slice(round(s.start * scale), round(s.stop * scale)) for s, scale in zip(part, scales, strict=True)
    )
    return rows, columns


def _touches_border(saturated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels connected to the border by a straight run of saturated pixels along a row or a column."""
    connected = np.zeros_like(saturated)
    for axis in (0, 1):
        connected |= np.logical_and.accumulate(saturated, axis=axis)
        connected |= np.flip(np.logical_and.accumulate(np.flip(saturated, axis), axis=axis), axis)
    return connected


def film_in_surround(pixels: FloatImage, *, white_only: bool = False) -> tuple[slice, slice]:
    """Rows and columns of a positive without a bright surround, such as a light box or the window of a viewer.

    A line at the border belongs to the surround if most of it is bright. A side has a surround if its border is white,
    or if most of the four borders is bright. All rows and columns are returned where nothing else remains.

    Args:
        pixels: (H, W) in [0, 1].
        white_only: leave out surrounds that are not white, which a leg that fills the image resembles.
    """
    reduced = block_means(pixels, REDUCED_SIDE_PX)
    borders = _borders(reduced)
    level = np.median(np.concatenate(borders))
    is_bright = level >= MIN_SURROUND and not white_only
    may_trim = [is_bright or quantiles(line, (0.1,))[0] >= WHITE_BORDER for line in borders]
    bright = reduced > (max(level, MIN_SURROUND) + quantiles(reduced, (0.05,))[0]) / 2
    top, bottom, left, right = _trimmed(
        bright,
        lambda lines: [may and bool(line.mean() >= SURROUND_LINE) for may, line in zip(may_trim, lines, strict=True)],
    )
    if bottom - top <= MIN_BOX_PX or right - left <= MIN_BOX_PX:
        return slice(0, pixels.shape[0]), slice(0, pixels.shape[1])
    return _in_full_size((slice(top, bottom), slice(left, right)), reduced, pixels)


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
    low, high = quantiles(inside, (0.01, 0.99))
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
