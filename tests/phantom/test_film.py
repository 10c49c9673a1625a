import numpy as np
import pytest

from kneegrade.errors import UsageError
from kneegrade.phantom.film import FilmOptions, compose_film, render_film


def test_film_is_reproducible_and_scales_with_its_spacing():
    one, two = (render_film(4, 7, FilmOptions("single_left", pixel_spacing_mm=1.5)) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    fine = compose_film(4, 7, FilmOptions("single_left", pixel_spacing_mm=0.5))
    np.testing.assert_allclose(fine.knees[0].landmarks_px, 3 * one.knees[0].landmarks_px)


def test_bilateral_film_has_the_right_knee_on_the_left():
    film = render_film(4, 0, FilmOptions("bilateral", longest_px=160))
    assert [shown.side for shown in film.knees] == ["R", "L"]
    right, left = (shown.landmarks_px for shown in film.knees)
    assert right[:, 0].mean() < left[:, 0].mean()
    assert right[47, 0] < right[63, 0]
    assert left[47, 0] > left[63, 0]
    assert max(film.pixels.shape) == 160


def test_knees_are_magnified_on_a_film():
    film = compose_film(4, 9, FilmOptions("single_right", pixel_spacing_mm=0.2))
    points = film.knees[0].landmarks_px * film.pixel_spacing_mm
    width = np.hypot(*(points[63] - points[47]))
    true_width = np.hypot(*(film.knees[0].knee.outline_mm[63] - film.knees[0].knee.outline_mm[47]))
    assert width == pytest.approx(true_width * film.plan.magnification)


def test_joints_lie_inside_the_film():
    for index in range(40):
        scene = compose_film(5, index, FilmOptions("random", longest_px=300))
        for shown in scene.knees:
            centre = shown.landmarks_px[[18, 55]].mean(axis=0)
            assert (centre > 0).all()
            assert (centre < scene.shape[::-1]).all()


def test_layout_none_has_no_knee_and_invalid_options_raise_errors():
    for index in range(12):
        film = render_film(6, index, FilmOptions("none", longest_px=100))
        assert film.knees == ()
        assert np.isfinite(film.pixels).all()
    with pytest.raises(UsageError, match="bilateral"):
        FilmOptions("hip")
    with pytest.raises(UsageError, match="positive"):
        FilmOptions(longest_px=0)
