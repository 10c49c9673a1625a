import numpy as np
import pytest
from films import knee
from scipy import ndimage

from kneegrade.imaging import Radiograph, check_crop, check_film
from kneegrade.imaging.film_quality import grey_levels, smoothness
from kneegrade.imaging.photometry import box_mean


def film(pixels: np.ndarray) -> Radiograph:
    return Radiograph(pixels.astype(np.float32))


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


CROP = knee(224, 224).astype(np.float32)


def test_good_images_have_no_findings() -> None:
    assert check_film(film(knee(600, 500))) == ()
    assert check_crop(CROP) == ()


def test_blank_and_small_images_are_reported() -> None:
    assert codes(check_film(film(np.full((300, 300), 0.4)))) == ["blank"]
    assert codes(check_crop(np.full((224, 224), 0.4, np.float32))) == ["blank"]
    assert codes(check_film(film(knee(127, 300)))) == ["too_small"]
    assert codes(check_film(film(np.zeros((5, 5))))) == ["too_small", "blank"]


def test_few_grey_levels_are_reported_as_exposure() -> None:
    assert codes(check_film(film(np.rint(knee(300, 300) * 10) / 10))) == ["exposure"]
    assert codes(check_film(film(np.rint(knee(300, 300) * 60) / 60))) == []


def test_clipping_is_reported_as_exposure() -> None:
    assert "exposure" in codes(check_crop(np.clip(CROP * 3, 0, 1)))
    assert "exposure" in codes(check_film(film(np.clip(knee(300, 300) * 40 - 20, 0, 1))))


def test_low_contrast_of_a_crop_is_reported_as_exposure() -> None:
    assert codes(check_crop(0.5 + 0.05 * CROP)) == ["exposure"]


@pytest.mark.parametrize("sigma", [3.5, 5.0, 8.0])
def test_strong_blur_is_reported(sigma: float) -> None:
    assert codes(check_crop(ndimage.gaussian_filter(CROP, sigma))) == ["blur"]
    assert "blur" in codes(check_film(film(ndimage.gaussian_filter(knee(512, 512), sigma))))


def test_a_crop_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(288, 288\); expected \(224, 224\)"):
        check_crop(knee(288, 288).astype(np.float32))


def test_slight_blur_is_accepted() -> None:
    assert check_crop(ndimage.gaussian_filter(CROP, 0.8)) == ()


def test_smoothness_increases_with_blur_and_is_invariant_to_contrast_and_polarity() -> None:
    values = [smoothness(ndimage.gaussian_filter(knee(), sigma)) for sigma in (0.5, 1, 2, 4, 8)]
    assert values == sorted(values)
    assert smoothness(5 - 3 * knee()) == pytest.approx(smoothness(knee()))
    assert smoothness(np.ones((20, 20))) == 1


def test_smoothness_is_the_share_of_the_gradient_that_a_moving_mean_leaves():
    pixels = np.random.default_rng(5).random((40, 30))
    ratios = [
        np.abs(np.diff(box_mean(pixels, 4, axes=(axis,)), axis=axis)).sum() / np.abs(np.diff(pixels, axis=axis)).sum()
        for axis in (0, 1)
    ]
    assert smoothness(pixels) == pytest.approx(max(ratios), rel=1e-12)


def test_grey_levels_are_counted_after_rounding_to_8_bits():
    pixels = np.random.default_rng(6).random((50, 60)).astype(np.float32) * np.float32(0.3)
    assert grey_levels(pixels) == len(np.unique(np.rint(pixels * 255)))
