import numpy as np
import pytest

from kneegrade.anatomy.joint_space import gap_at, joint_space_width


def slab(medial: float, lateral: float) -> np.ndarray:
    """A flat plateau of width 80 (lateral at x = 0) under a straight femur: the gap runs from lateral to medial."""
    points = np.zeros((74, 2))
    points[:37, 1], points[37:, 1] = -30.0, 30.0  # the rest of the bones
    points[47:64] = np.stack([np.linspace(0, 80, 17), np.zeros(17)], axis=1)
    points[12:25, 0] = np.linspace(0, 80, 13)
    points[12:25, 1] = -(lateral + (medial - lateral) * points[12:25, 0] / 80)
    return points


def test_hand_computed_widths():
    width = joint_space_width(slab(medial=2.0, lateral=6.0))
    assert width.medial == pytest.approx(2.0 + 0.15 * 4)  # x counts from the medial edge; least at 0.15
    assert width.lateral == pytest.approx(2.0 + 0.825 * 4)


def test_independent_of_pose_and_mirror():
    points = slab(3.0, 5.0)
    angle = np.radians(31)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(gap_at(points @ turn.T + 9, x), gap_at(points, x))
    np.testing.assert_allclose(gap_at(points * [-1, 1], x), gap_at(points, x))


def test_overlapping_bones_have_no_negative_width():
    assert joint_space_width(slab(-2.0, 6.0)).medial == 0.0
