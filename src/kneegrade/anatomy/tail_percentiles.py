"""`low_high_percentile`: the percentiles between which the contrast of crops is stretched."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.imaging.quantiles import order_statistics

TAIL_SHARE = 0.01  # contrast is stretched from the 1st to the 99th percentile


def low_high_percentile(values: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the 1st and the 99th percentile of each row, (B,) each; 0 for a row without a counted value.

    The result is that of `torch.nanquantile` with linear interpolation. Only the tails are sorted, which is many times
    faster.

    Args:
        values: (B, N) float.
        counted: (B, N) bool, False for values to leave out; by default all values count.
    """
    if values.device.type == "cpu" and values.dtype == torch.float32:
        rows = values.numpy()
        kept = rows if counted is None else [row[mask] for row, mask in zip(rows, counted.numpy(), strict=True)]
        low, high = torch.tensor([_tail_values(row) for row in kept]).unbind(1)
        return low, high
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    number = counted.sum(1, keepdim=True)  # (B, 1)
    rank = TAIL_SHARE * (number - 1).clamp(min=0).to(values.dtype)  # counted from either end
    before = rank.floor().long()
    after = torch.minimum(before + 1, (number - 1).clamp(min=0))
    tail = min(values.shape[1], int(TAIL_SHARE * values.shape[1]) + 2)
    lowest = values.masked_fill(~counted, torch.inf).topk(tail, dim=1, largest=False).values
    highest = values.masked_fill(~counted, -torch.inf).topk(tail, dim=1).values
    low, high = (
        torch.lerp(end.gather(1, before), end.gather(1, after), rank - before)[:, 0] for end in (lowest, highest)
    )
    return low.where(number[:, 0] > 0, 0.0), high.where(number[:, 0] > 0, 0.0)


def _tail_values(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the two percentiles of `low_high_percentile` of one row of counted values, by partial sorting."""
    if not len(values):
        return 0.0, 0.0
    rank = np.float32(TAIL_SHARE) * np.float32(len(values) - 1)  # counted from either end
    before = int(rank)
    after, last, share = min(before + 1, len(values) - 1), len(values) - 1, rank - np.float32(before)
    at = order_statistics(values, (before, after, last - after, last - before))
    low, high = (
        at[i] + share * (at[j] - at[i]) if share < 0.5 else at[j] - (at[j] - at[i]) * (1 - share)
        for i, j in ((before, after), (last - before, last - after))
    )
    return float(low), float(high)
