import numpy as np
import pytest

from kneegrade.anatomy.joint_space import (
    FIXED_AT,
    WIDTH_ERROR_FACTOR,
    convergence_angle_deg,
    gap_at,
    gap_line,
    joint_space_width,
    measure,
)
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.shape_model import ShapeModel

MEAN = ShapeModel.load().mean({"kl": 0})


def landmarks(points, sd_px) -> Landmarks:
    return Landmarks(points, np.tile(np.eye(2) * sd_px**2, (74, 1, 1)), np.ones(74, dtype=bool))


def slab(medial: float, lateral: float) -> np.ndarray:
    """Landmarks with a flat plateau of width 80, lateral at x = 0, and a gap that is linear in x."""
    points = np.zeros((74, 2))
    points[:37, 1], points[37:, 1] = -30.0, 30.0  # the rest of the bones
    points[47:64] = np.stack([np.linspace(0, 80, 17), np.zeros(17)], axis=1)
    points[12:25, 0] = np.linspace(0, 80, 13)
    points[12:25, 1] = -(lateral + (medial - lateral) * points[12:25, 0] / 80)
    return points


def test_widths_against_values_computed_by_hand():
    width = joint_space_width(slab(medial=2.0, lateral=6.0))
    assert width.medial == pytest.approx(2.0 + 0.15 * 4)  # x is measured from the medial edge; the minimum is at 0.15
    assert width.lateral == pytest.approx(2.0 + 0.825 * 4)


def test_widths_do_not_change_with_rotation_and_mirroring():
    points = slab(3.0, 5.0)
    angle = np.radians(31)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(gap_at(points @ turn.T + 9, x), gap_at(points, x))
    np.testing.assert_allclose(gap_at(points * [-1, 1], x), gap_at(points, x))


def test_overlapping_bones_have_width_zero():
    assert joint_space_width(slab(-2.0, 6.0)).medial == 0.0


def test_widths_in_mm_and_as_fractions_of_the_tibial_width():
    space = measure(landmarks(MEAN * 5 + 300, 0.5), mm_per_px=0.2)
    truth = joint_space_width(MEAN)
    assert space.width_mm.medial == pytest.approx(truth.medial, rel=1e-6)
    assert space.width_mm.lateral == pytest.approx(truth.lateral, rel=1e-6)
    width_mm = np.linalg.norm(MEAN[63] - MEAN[47])
    assert space.medial.value == pytest.approx(truth.medial / width_mm)
    assert list(space.fixed) == [round(x, 3) for x in FIXED_AT]
    assert space.fixed[0.825].value == space.lateral.value


def test_without_pixel_spacing_there_are_no_millimetres():
    space = measure(landmarks(MEAN * 5, 0.5), mm_per_px=None)
    assert space.width_mm is None
    assert space.mm(space.medial) is None


def test_standard_errors_are_proportional_to_landmark_errors():
    small, large = (measure(landmarks(MEAN * 5, sd), None) for sd in (0.5, 1.0))
    for one, two in ((small.lateral, large.lateral), (small.convergence_deg, large.convergence_deg)):
        assert two.error == pytest.approx(2 * one.error, rel=0.3)
    assert small.lateral.error > 0


def test_the_error_of_a_width_is_that_of_at_most_two_independent_landmarks():
    space = measure(landmarks(MEAN * 5, 1.0), None)
    in_px = space.lateral.error / WIDTH_ERROR_FACTOR * space.tibial_width_px.value
    assert 0.8 < in_px < np.sqrt(2) * 1.2  # one landmark on each bone


def test_convergence_angle_is_positive_if_the_joint_opens_laterally():
    def angle_after_rotation(angle_deg):
        """Angle after a rotation of the femur about the notch; a positive one lifts the lateral side, at smaller x."""
        angle = np.radians(angle_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = MEAN.copy()
        points[:37] = (points[:37] - MEAN[18]) @ turn.T + MEAN[18]
        return convergence_angle_deg(points)

    unrotated = angle_after_rotation(0.0)
    assert angle_after_rotation(3.0) - unrotated == pytest.approx(3.0, abs=0.15)
    assert angle_after_rotation(-3.0) - unrotated == pytest.approx(-3.0, abs=0.15)
    assert convergence_angle_deg(MEAN * [-1, 1]) == pytest.approx(unrotated, abs=1e-9)


def test_gap_line_is_as_long_as_the_width():
    space = measure(landmarks(MEAN * 5, 1.0), None)
    start, end = gap_line(MEAN * 5, 0.825)
    assert np.linalg.norm(end - start) == pytest.approx(space.lateral.value * space.tibial_width_px.value)
