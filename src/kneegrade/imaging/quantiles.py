"""Quantiles of pixels, bit for bit those of `numpy.quantile`, in a fraction of its time.

numpy partitions all values. For a quantile near either end, the values beyond a threshold are enough. The threshold is
estimated from a sample; if too few values are beyond it, all are partitioned.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SAMPLE_SIZE: Final = 1024
MIN_SIZE: Final = 8 * SAMPLE_SIZE  # of arrays from which a sample is taken
TAIL_SHARE: Final = 0.1  # quantiles this near to an end are looked for in a tail


def quantiles(values: NDArray[Any], shares: Sequence[float]) -> list[float]:
    """The quantiles of some values, with linear interpolation.

    Args:
        values: finite real numbers, at least one.
        shares: 0 … 1.

    Example:
        >>> quantiles(np.array([3.0, 1.0, 2.0]), (0.5, 0.75))
        [2.0, 2.5]
    """
    last = values.size - 1
    places = [last * share for share in shares]
    pairs = [(int(place), min(int(place) + 1, last)) for place in places]
    at = order_statistics(values, (rank for pair in pairs for rank in pair))
    return [_between(at[low], at[high], place - low) for place, (low, high) in zip(places, pairs, strict=True)]


def nearest_quantiles(values: NDArray[Any], shares: Sequence[float]) -> list[float]:
    """The values that are nearest to the quantiles in the sorted order, without interpolation.

    Args:
        values: finite real numbers, at least one.
        shares: 0 … 1.
    """
    ranks = [round((values.size - 1) * share) for share in shares]
    at = order_statistics(values, ranks)
    return [float(at[rank]) for rank in ranks]


def order_statistics(values: NDArray[Any], ranks: Iterable[int]) -> dict[int, Any]:
    """Rank → the value at this place of the sorted values.

    Args:
        values: finite real numbers.
        ranks: from 0, for the smallest value, to the number of values − 1.
    """
    flat, missing, found = values.reshape(-1), {*ranks}, dict[int, Any]()
    if flat.size >= MIN_SIZE:
        sample = np.sort(flat[:: flat.size // SAMPLE_SIZE])
        found = _lowest(flat, sample, [rank for rank in missing if rank < TAIL_SHARE * flat.size])
        found |= _highest(flat, sample, [rank for rank in missing if rank > (1 - TAIL_SHARE) * flat.size])
        missing -= found.keys()
    return found | _partitioned(flat, missing)


def _lowest(flat: NDArray[Any], sample: NDArray[Any], ranks: Sequence[int]) -> dict[int, Any]:
    """The values at low ranks; empty if there are no such ranks, or if the sample misleads."""
    if not ranks:
        return {}
    below = flat.compress(flat <= sample[_in_sample(max(ranks), flat, sample)])
    return _partitioned(below, ranks) if max(ranks) < below.size else {}


def _highest(flat: NDArray[Any], sample: NDArray[Any], ranks: Sequence[int]) -> dict[int, Any]:
    """The values at high ranks; empty if there are no such ranks, or if the sample misleads."""
    if not ranks:
        return {}
    above = flat.compress(flat >= sample[-1 - _in_sample(flat.size - 1 - min(ranks), flat, sample)])
    left_out = flat.size - above.size
    if min(ranks) < left_out:
        return {}
    return {rank + left_out: value for rank, value in _partitioned(above, [r - left_out for r in ranks]).items()}


def _in_sample(rank: int, flat: NDArray[Any], sample: NDArray[Any]) -> int:
    """A rank in the sample that very probably corresponds to more than `rank` in all values."""
    return min(len(sample) - 1, 2 * rank * len(sample) // flat.size + 8)


def _partitioned(flat: NDArray[Any], ranks: Iterable[int]) -> dict[int, Any]:
    wanted = sorted(ranks)
    if not wanted:
        return {}
    ordered = np.partition(flat, wanted)
    return {rank: ordered[rank] for rank in wanted}


def _between(low: Any, high: Any, share: float) -> float:
    """The value at a share of the way from `low` to `high`, exact at both ends."""
    step = float(high - low)  # in the precision of the values
    return float(low) + step * share if share < 0.5 else float(high) - step * (1 - share)
