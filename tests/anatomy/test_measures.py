import numpy as np
import pytest

from kneegrade.anatomy.joint_space import (
    FIXED_AT,
    GAP_FACTOR,
    convergence_angle_deg,
    gap_line,
    joint_space_width,
    measure,
)
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.shape_model import ShapeModel

MEAN = ShapeModel.load().mean({"kl": 0})


def outline(points, sd_px) -> Landmarks:
    return Landmarks(points, np.tile(np.eye(2) * sd_px**2, (74, 1, 1)), np.ones(74, dtype=bool))


def test_widths_are_those_of_the_outline_in_mm_and_as_fractions():
    space = measure(outline(MEAN * 5 + 300, 0.5), mm_per_px=0.2)
    truth = joint_space_width(MEAN)
    assert space.width_mm.medial == pytest.approx(truth.medial, rel=1e-6)
    assert space.width_mm.lateral == pytest.approx(truth.lateral, rel=1e-6)
    width_mm = np.linalg.norm(MEAN[63] - MEAN[47])
    assert space.medial.value == pytest.approx(truth.medial / width_mm)
    assert list(space.fixed) == [round(x, 3) for x in FIXED_AT]
    assert space.fixed[0.825].value == space.lateral.value


def test_without_a_spacing_there_are_no_millimetres():
    space = measure(outline(MEAN * 5, 0.5), mm_per_px=None)
    assert space.width_mm is None
    assert space.mm(space.medial) is None


def test_errors_grow_with_those_of_the_landmarks():
    small, large = (measure(outline(MEAN * 5, sd), None) for sd in (0.5, 1.0))
    for one, two in ((small.lateral, large.lateral), (small.convergence_deg, large.convergence_deg)):
        assert two.error == pytest.approx(2 * one.error, rel=0.3)
    assert small.lateral.error > 0


def test_the_stated_error_is_what_independent_draws_scatter_by():
    """Without likeness along the bone a width between two landmarks scatters less than one landmark."""
    space = measure(outline(MEAN * 5, 1.0), None)
    in_px = space.lateral.error / GAP_FACTOR * space.tibial_width_px.value
    assert 0.8 < in_px < np.sqrt(2) * 1.2  # at most two independent landmarks, one on each bone


def test_convergence_angle_is_positive_where_the_joint_opens_laterally():
    def turned(angle_deg):
        """The femur turned about the notch; lateral lies at smaller x, so a positive turn lifts it there."""
        angle = np.radians(angle_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = MEAN.copy()
        points[:37] = (points[:37] - MEAN[18]) @ turn.T + MEAN[18]
        return convergence_angle_deg(points)

    still = turned(0.0)
    assert turned(3.0) - still == pytest.approx(3.0, abs=0.15)
    assert turned(-3.0) - still == pytest.approx(-3.0, abs=0.15)
    assert convergence_angle_deg(MEAN * [-1, 1]) == pytest.approx(still, abs=1e-9)


def test_the_drawn_line_is_as_long_as_the_width():
    space = measure(outline(MEAN * 5, 1.0), None)
    start, end = gap_line(MEAN * 5, 0.825)
    assert np.linalg.norm(end - start) == pytest.approx(space.lateral.value * space.tibial_width_px.value)
