"""numpy is the oracle, bit for bit."""

import numpy as np
import pytest

from kneegrade.imaging.quantiles import MIN_SIZE, nearest_quantiles, quantiles

SHARES = ((0.01, 0.99), (0.005, 0.995), (0.03, 0.97), (0.0, 1.0), (0.1,), (0.5, 0.95))


def arrays(size: int) -> list[np.ndarray]:
    """Noise, few levels, a ramp, many equal values, and a border whose values no sample shows."""
    rng = np.random.default_rng(size)
    noise = rng.random(size)
    hidden = noise.copy()
    hidden[1 : size // 8] = -noise[1 : size // 8]
    return [noise, np.rint(noise * 20), np.sort(noise), np.where(noise < 0.4, 0.0, noise), hidden]


@pytest.mark.parametrize("size", [1, 2, 101, 1000, MIN_SIZE, 30011])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shares", SHARES)
def test_quantiles_are_those_of_numpy(size, dtype, shares):
    for values in arrays(size):
        values = values.astype(dtype)
        np.testing.assert_array_equal(quantiles(values, shares), np.quantile(values, shares))
        nearest = np.quantile(values, shares, method="nearest")
        np.testing.assert_array_equal(nearest_quantiles(values, shares), nearest)


def test_a_misleading_sample_changes_nothing():
    values = np.zeros(10 * MIN_SIZE)
    values[1::2] = np.random.default_rng(0).random(5 * MIN_SIZE) - 2  # a sample of every 80th value has none of them
    assert quantiles(values, (0.01, 0.99)) == np.quantile(values, (0.01, 0.99)).tolist()
