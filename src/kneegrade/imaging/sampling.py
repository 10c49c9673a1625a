"""Block means and box means, the two averages that photometry and the quality gate look through."""

import numpy as np
from numpy.typing import NDArray


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
