import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from kneegrade.imaging.photometry import block_means, box_mean


def test_block_means_by_hand() -> None:
    picture = np.array([[0, 2, 4, 6], [2, 4, 6, 8]])
    np.testing.assert_array_equal(block_means(picture, 2), [[2, 6]])


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), side=st.integers(1, 70))
def test_block_means_lie_within_the_picture(rows: int, columns: int, side: int) -> None:
    picture = np.random.default_rng(rows).random((rows, columns))
    reduced = block_means(picture, side)
    assert max(reduced.shape) == min(side, max(rows, columns))
    assert picture.min() <= reduced.min() <= reduced.max() <= picture.max() + 1e-12


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_box_mean_is_scipys(radius: int) -> None:
    picture = np.random.default_rng(0).normal(size=(31, 23))
    expected = ndimage.uniform_filter(picture, 2 * radius + 1, mode="reflect")
    np.testing.assert_allclose(box_mean(picture, radius), expected, atol=1e-12)
    along = ndimage.uniform_filter1d(picture, 2 * radius + 1, axis=1, mode="reflect")
    np.testing.assert_allclose(box_mean(picture, radius, axes=(1,)), along, atol=1e-12)
