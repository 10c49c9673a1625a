"""Means of blocks and boxes of pixels, and scaling, for whole films."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PART_PX = 2**18  # pixels that are scaled together, so that they stay in the cache


def scaled_to_unit_range(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """(H, W) the pixels scaled so that `low` becomes 0 and `high` becomes 1, clipped to [0, 1]."""
    offset, factor = np.float32(low), np.float32(1 / (high - low))
    scaled, rows = np.empty_like(pixels), max(1, PART_PX // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        part = np.subtract(pixels[top : top + rows], offset, out=scaled[top : top + rows])
        part *= factor
        np.clip(part, 0, 1, out=part)
    return scaled


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
        for offset in range(1, int(counts.max())):  # np.add.reduceat takes five times longer
            if offset < counts.min():
                sums += reduced.take(starts + offset, axis)
                continue
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
        values = sums[tuple(last)] - sums[tuple(first)]
        values /= side
    return values
