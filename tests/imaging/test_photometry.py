"""Normalisation, polarity and the collimated field."""

import numpy as np
import pytest
from films import knee
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kneegrade.imaging import looks_inverted, normalise, polarity_score
from kneegrade.imaging.box_filters import block_means, box_mean
from kneegrade.imaging.photometry import collimated_field


def two_legs(gap: float = 0.3) -> np.ndarray:
    """(200, 400): two textured bones in legs, with dark uniform air between the legs only."""
    across = np.abs(np.linspace(-1, 1, 400))[None, :].repeat(200, 0)
    grain = np.random.default_rng(3).random((200, 400))
    leg = across > gap
    bone = np.abs(across - (1 + gap) / 2) < 0.12
    return np.where(leg, 0.4 + 0.1 * grain, 0.05) + np.where(bone, 0.3 + 0.2 * grain, 0)


@pytest.mark.parametrize("film", [knee(), two_legs(), two_legs(0.1), knee()[:, 25:135]])
def test_polarity_is_detected_and_the_score_is_odd(film: np.ndarray) -> None:
    assert polarity_score(film) > 0.25
    assert polarity_score(7 - film) == pytest.approx(-polarity_score(film), abs=1e-9)
    assert not looks_inverted(film)
    assert looks_inverted(-film)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 1e4), offset=st.floats(-1e3, 1e3), turns=st.integers(0, 3), mirror=st.booleans())
def test_score_is_invariant_to_exposure_and_orientation(scale, offset, turns, mirror) -> None:
    film = np.rot90(knee()[:, ::-1] if mirror else knee(), turns)
    assert polarity_score(film * scale + offset) == pytest.approx(polarity_score(knee()), rel=0.05)


@pytest.mark.parametrize("border", [0.0, 1.0])
@pytest.mark.parametrize("widths", [((20, 10), (0, 35)), ((0, 0), (40, 40)), ((33, 7), (12, 3))])
def test_blank_borders_change_neither_score_nor_grey_levels(border, widths) -> None:
    framed = np.pad(knee(), widths, constant_values=border)
    assert polarity_score(framed) > 0.25
    assert polarity_score(1 - framed) < -0.25
    (top, bottom), (left, right) = widths
    inside, _ = normalise(framed)
    np.testing.assert_allclose(
        inside[top : framed.shape[0] - bottom, left : framed.shape[1] - right], normalise(knee())[0], atol=0.06
    )


def test_collimated_field_excludes_blank_borders() -> None:
    image = np.random.default_rng(0).random((150, 160))
    framed = np.pad(image, ((30, 0), (0, 50)), constant_values=1)
    field = collimated_field(framed)
    assert abs(field.rows.start - 30) <= 4
    assert field.rows.stop == 180
    assert field.columns.start == 0
    assert abs(field.columns.stop - 160) <= 4


def test_collimated_field_excludes_slanted_blades() -> None:
    film = knee(300, 300) * 0.5
    rows, columns = np.mgrid[:300, :300]
    film[rows < 60 - columns * 0.1] = 1  # an unexposed wedge at a slanted collimator blade
    mask = collimated_field(film).mask
    assert not mask[:6, :60].any()
    pixels, _ = normalise(film)
    assert np.percentile(pixels[80:, 100:200], 95) > 0.9


def test_collimated_field_is_not_empty_when_most_of_the_image_is_saturated() -> None:
    film = np.zeros((200, 200))
    film[95:105, 95:105] = knee(10, 10)
    assert collimated_field(film).mask.any()
    assert normalise(film)[0].max() > 0.999


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), high=st.sampled_from([255, 4095, 65535]))
def test_an_image_and_its_negative_give_identical_pixels(seed: int, high: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.02, knee().shape)
    film = np.rint(np.clip(knee() * 0.8 + 0.1 + noise, 0, 1) * high)
    pixels, findings = normalise(film)
    inverted, found = normalise(high - film)
    np.testing.assert_array_equal(inverted, pixels)
    assert findings == ()
    assert [finding.code for finding in found] == ["inverted_by_pixels"]


def test_normalise_clips_to_the_percentiles() -> None:
    pixels, _ = normalise(knee() * 3000 + 500)
    assert (pixels.min(), pixels.max(), pixels.dtype) == (0, 1, np.float32)
    assert 0 < np.mean(pixels == 1) < 0.02


def test_normalise_does_not_modify_its_input() -> None:
    film = knee().astype(np.float32)
    before = film.copy()
    normalise(1 - film)
    normalise(film)
    np.testing.assert_array_equal(film, before)


@pytest.mark.parametrize("film", [np.full((140, 140), 5.0), np.full((140, 140), np.nan), np.zeros((1, 1))])
def test_constant_and_padding_only_images_become_black(film: np.ndarray) -> None:
    pixels, findings = normalise(film)
    assert pixels.shape == film.shape
    assert pixels.max() == 0
    assert findings == ()


def test_score_of_a_constant_image_is_zero() -> None:
    assert polarity_score(np.ones((50, 50))) == 0
    assert not looks_inverted(np.ones((50, 50)))


def test_rare_bright_pixels_are_kept_when_the_percentiles_coincide() -> None:
    film = np.zeros((400, 400))
    film[200, 200] = 9
    assert normalise(film)[0].max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5), (17, 17), (2000, 40)])
def test_unusual_shapes_are_normalised(shape: tuple[int, int]) -> None:
    film = np.random.default_rng(0).random(shape)
    pixels, _ = normalise(film)
    assert pixels.shape == shape
    assert np.isfinite(pixels).all()


def test_padding_of_a_negative_becomes_black() -> None:
    film = 1 - knee()
    film[:10] = np.nan
    pixels, findings = normalise(film)
    assert pixels[:10].max() == 0
    assert len(findings) == 1


def test_block_means_of_a_small_example() -> None:
    image = np.array([[0, 2, 4, 6], [2, 4, 6, 8]])
    np.testing.assert_array_equal(block_means(image, 2), [[2, 6]])


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), side=st.integers(1, 70))
def test_block_means_are_within_the_range_of_the_image(rows: int, columns: int, side: int) -> None:
    image = np.random.default_rng(rows).random((rows, columns))
    reduced = block_means(image, side)
    assert max(reduced.shape) == min(side, max(rows, columns))
    assert image.min() <= reduced.min() <= reduced.max() <= image.max() + 1e-12


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_box_mean_equals_scipy_uniform_filter(radius: int) -> None:
    image = np.random.default_rng(0).normal(size=(31, 23))
    expected = ndimage.uniform_filter(image, 2 * radius + 1, mode="reflect")
    np.testing.assert_allclose(box_mean(image, radius), expected, atol=1e-12)
    along = ndimage.uniform_filter1d(image, 2 * radius + 1, axis=1, mode="reflect")
    np.testing.assert_allclose(box_mean(image, radius, axes=(1,)), along, atol=1e-12)
