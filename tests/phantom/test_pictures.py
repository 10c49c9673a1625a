import numpy as np
import pytest

from kneegrade.errors import UsageError
from kneegrade.phantom.film import compose_film, render_film
from kneegrade.phantom.knee import sample_knee, with_side
from kneegrade.phantom.rasterise import Placement, distance_field
from kneegrade.phantom.roi import render_roi, roi_landmarks
from kneegrade.phantom.thickness import leg_maps
from kneegrade.phantom.xray import attenuation_per_mm


def flat(shape):
    return np.zeros(shape, np.float32)


def test_distance_field_of_a_circle():
    angle = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    circle = np.stack([50.3 + 30 * np.cos(angle), 49.6 + 30 * np.sin(angle)], axis=1)
    field = distance_field(circle, (100, 100))
    y, x = np.mgrid[field.rows, field.columns]
    exact = 30 - np.hypot(x - 50.3, y - 49.6)
    near = np.abs(exact) < 3
    np.testing.assert_allclose(field.inside_px[near], exact[near], atol=0.08)
    np.testing.assert_allclose(field.inside_px, exact, atol=0.6)


def test_distance_field_of_a_contour_outside_is_none():
    assert distance_field(np.array([[200.0, 200], [210, 200], [205, 210]]), (100, 100)) is None


def test_roi_is_the_same_every_time_and_in_range():
    knee = sample_knee(2, 3)
    (one, first), (two, second) = render_roi(knee, 96), render_roi(knee, 96)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first, second)
    assert one.dtype == np.float32
    assert one.shape == (96, 96)
    assert 0 <= one.min() < one.max() <= 1
    np.testing.assert_array_equal(roi_landmarks(knee, 96), first)


def test_landmarks_follow_size_rotation_and_side():
    knee = with_side(sample_knee(2, 4), "R")
    _, plain = render_roi(knee, 64, 120.0, rotation_deg=0.0)
    _, double = render_roi(knee, 128, 120.0, rotation_deg=0.0)
    _, turned = render_roi(knee, 64, 120.0, rotation_deg=90.0)
    _, left = render_roi(with_side(knee, "L"), 64, 120.0, rotation_deg=0.0)
    np.testing.assert_allclose(double - 63.5, 2 * (plain - 31.5), atol=1e-9)
    x, y = (plain - 31.5).T
    np.testing.assert_allclose(turned - 31.5, np.stack([-y, x], axis=1), atol=1e-9)
    np.testing.assert_allclose(left[:, 0], 63 - plain[:, 0], atol=1e-9)
    assert plain[47, 0] < plain[63, 0]  # lateral on the image's left for a right knee


def test_bone_lies_inside_the_landmarks():
    knee = sample_knee(2, 5)
    shape = (200, 200)
    placement = Placement.of((100.0, 100.0), 1.4, 0.0, knee.side == "L")
    bone = leg_maps(knee, placement, shape, flat(shape)).bone
    points = placement.to_px(knee.outline_mm)
    gap = (points[14] + points[49]) / 2
    condyle, plateau = points[14] - [0, 10], points[49] + [0, 10]
    values = [bone[round(float(y)), round(float(x))] for x, y in (condyle, gap, plateau)]
    assert values[0] > 20
    assert values[2] > 20
    assert values[1] < 5


def test_fibula_is_lateral():
    for side, lateral_is_left in (("R", True), ("L", False)):
        knee = with_side(sample_knee(3, 1), side)
        shape = (240, 300)
        placement = Placement.of((150.0, 40.0), 1.5, 0.0, side == "L")
        mineral = leg_maps(knee, placement, shape, flat(shape)).bone[200]  # some 105 mm below the joint: two bones
        runs = np.flatnonzero(np.diff(np.r_[0, (mineral > 0.5).astype(int), 0]))
        widths, starts = runs[1::2] - runs[::2], runs[::2]
        assert len(widths) == 2
        assert (starts[widths.argmin()] < starts[widths.argmax()]) == lateral_is_left


def test_attenuation_of_the_cited_tables():
    assert attenuation_per_mm("bone", 50.0) == pytest.approx(0.4242 * 1.92 / 10)
    assert attenuation_per_mm("fat", 45.0) < attenuation_per_mm("muscle", 45.0) < attenuation_per_mm("bone", 45.0)


def test_bilateral_film_has_the_right_knee_on_the_left():
    film = render_film(4, 0, "bilateral", longest_px=160)
    assert [shown.side for shown in film.knees] == ["R", "L"]
    right, left = (shown.landmarks_px for shown in film.knees)
    assert right[:, 0].mean() < left[:, 0].mean()
    assert right[47, 0] < right[63, 0]
    assert left[47, 0] > left[63, 0]
    assert max(film.pixels.shape) == 160


def test_film_is_repeatable_and_scales_with_its_spacing():
    one, two = (render_film(4, 7, "single_left", pixel_spacing_mm=1.5) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    fine = compose_film(4, 7, "single_left", pixel_spacing_mm=0.5)
    np.testing.assert_allclose(fine.knees[0].landmarks_px, 3 * one.knees[0].landmarks_px)


def test_joint_space_of_the_picture_is_the_truth_times_the_magnification():
    film = compose_film(4, 9, "single_right", pixel_spacing_mm=0.2)
    points = film.knees[0].landmarks_px * film.pixel_spacing_mm
    width = np.hypot(*(points[63] - points[47]))
    truth = np.hypot(*(film.knees[0].knee.outline_mm[63] - film.knees[0].knee.outline_mm[47]))
    assert width == pytest.approx(truth * film.plan.magnification)


def test_films_show_their_joints():
    for index in range(40):
        scene = compose_film(5, index, "random", longest_px=300)
        for shown in scene.knees:
            middle = shown.landmarks_px[[18, 55]].mean(axis=0)
            assert (middle > 0).all()
            assert (middle < scene.shape[::-1]).all()


def test_layout_none_has_no_knee_and_unknown_layouts_are_refused():
    for index in range(12):
        film = render_film(6, index, "none", longest_px=100)
        assert film.knees == ()
        assert np.isfinite(film.pixels).all()
    with pytest.raises(UsageError, match="bilateral"):
        compose_film(6, 0, "hip")
