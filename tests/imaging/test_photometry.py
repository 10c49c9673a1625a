import numpy as np
import pytest
from films import knee
from hypothesis import given, settings
from hypothesis import strategies as st

from kneegrade.imaging import inversion_score, looks_inverted, normalise
from kneegrade.imaging.photometry import collimated_field


def two_legs(gap: float = 0.3) -> np.ndarray:
    """(200, 400): two textured bones in legs, dark flat air between them and none beside them."""
    across = np.abs(np.linspace(-1, 1, 400))[None, :].repeat(200, 0)
    grain = np.random.default_rng(3).random((200, 400))
    leg = across > gap
    bone = np.abs(across - (1 + gap) / 2) < 0.12
    return np.where(leg, 0.4 + 0.1 * grain, 0.05) + np.where(bone, 0.3 + 0.2 * grain, 0)


@pytest.mark.parametrize("film", [knee(), two_legs(), two_legs(0.1), knee()[:, 25:135]])
def test_polarity_is_told_and_the_score_is_odd(film: np.ndarray) -> None:
    assert inversion_score(film) > 0.25
    assert inversion_score(7 - film) == pytest.approx(-inversion_score(film), abs=1e-9)
    assert not looks_inverted(film)
    assert looks_inverted(-film)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 1e4), offset=st.floats(-1e3, 1e3), turns=st.integers(0, 3), mirror=st.booleans())
def test_score_depends_on_neither_exposure_nor_orientation(scale, offset, turns, mirror) -> None:
    film = np.rot90(knee()[:, ::-1] if mirror else knee(), turns)
    assert inversion_score(film * scale + offset) == pytest.approx(inversion_score(knee()), rel=0.05)


@pytest.mark.parametrize("border", [0.0, 1.0])
@pytest.mark.parametrize("widths", [((20, 10), (0, 35)), ((0, 0), (40, 40)), ((33, 7), (12, 3))])
def test_blank_borders_sway_neither_score_nor_grey_values(border, widths) -> None:
    framed = np.pad(knee(), widths, constant_values=border)
    assert inversion_score(framed) > 0.25
    assert inversion_score(1 - framed) < -0.25
    (top, bottom), (left, right) = widths
    inside, _ = normalise(framed)
    np.testing.assert_allclose(
        inside[top : framed.shape[0] - bottom, left : framed.shape[1] - right], normalise(knee())[0], atol=0.06
    )


def test_field_is_the_picture_within_its_borders() -> None:
    picture = np.random.default_rng(0).random((150, 160))
    framed = np.pad(picture, ((30, 0), (0, 50)), constant_values=1)
    field = collimated_field(framed)
    assert abs(field.rows.start - 30) <= 4
    assert field.rows.stop == 180
    assert field.columns.start == 0
    assert abs(field.columns.stop - 160) <= 4


def test_slanted_blades_do_not_count() -> None:
    film = knee(300, 300) * 0.5
    rows, columns = np.mgrid[:300, :300]
    film[rows < 60 - columns * 0.1] = 1  # an unexposed wedge
    mask = collimated_field(film).mask
    assert not mask[:6, :60].any()
    pixels, _ = normalise(film)
    assert np.percentile(pixels[80:, 100:200], 95) > 0.9


def test_saturated_air_all_around_leaves_a_field() -> None:
    film = np.zeros((200, 200))
    film[95:105, 95:105] = knee(10, 10)
    assert collimated_field(film).mask.any()
    assert normalise(film)[0].max() > 0.999


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), high=st.sampled_from([255, 4095, 65535]))
def test_a_film_and_its_negative_end_in_the_same_pixels(seed: int, high: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.02, knee().shape)
    film = np.rint(np.clip(knee() * 0.8 + 0.1 + noise, 0, 1) * high)
    pixels, findings = normalise(film)
    inverted, found = normalise(high - film)
    np.testing.assert_array_equal(inverted, pixels)
    assert findings == ()
    assert [finding.code for finding in found] == ["inverted_by_pixels"]


def test_normalising_is_clipped_to_the_percentiles() -> None:
    pixels, _ = normalise(knee() * 3000 + 500)
    assert (pixels.min(), pixels.max(), pixels.dtype) == (0, 1, np.float32)
    assert 0 < np.mean(pixels == 1) < 0.02


def test_input_is_not_changed() -> None:
    film = knee().astype(np.float32)
    before = film.copy()
    normalise(1 - film)
    normalise(film)
    np.testing.assert_array_equal(film, before)


@pytest.mark.parametrize("film", [np.full((140, 140), 5.0), np.full((140, 140), np.nan), np.zeros((1, 1))])
def test_pictures_without_content_become_black(film: np.ndarray) -> None:
    pixels, findings = normalise(film)
    assert pixels.shape == film.shape
    assert pixels.max() == 0
    assert findings == ()


def test_score_of_nothing_is_zero() -> None:
    assert inversion_score(np.ones((50, 50))) == 0
    assert not looks_inverted(np.ones((50, 50)))


def test_rare_bright_pixels_are_not_lost_when_the_percentiles_coincide() -> None:
    film = np.zeros((400, 400))
    film[200, 200] = 9
    assert normalise(film)[0].max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5), (17, 17), (2000, 40)])
def test_odd_shapes_are_no_error(shape: tuple[int, int]) -> None:
    film = np.random.default_rng(0).random(shape)
    pixels, _ = normalise(film)
    assert pixels.shape == shape
    assert np.isfinite(pixels).all()


def test_padding_becomes_black_even_in_a_negative() -> None:
    film = 1 - knee()
    film[:10] = np.nan
    pixels, findings = normalise(film)
    assert pixels[:10].max() == 0
    assert len(findings) == 1
