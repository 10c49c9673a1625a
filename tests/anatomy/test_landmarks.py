import numpy as np
import pytest

from kneegrade.anatomy.landmarks import (
    MIN_ERROR_CELLS,
    TOLERANCE,
    UNSEEN_ERROR,
    Landmarks,
    landmarks_from_heatmaps,
    regularize_by_shape,
)
from kneegrade.anatomy.shape_model import ShapeModel

SHAPE = ShapeModel.load()
PX_PER_MM = 4.0
TRUTH = SHAPE.shape({"kl": 2}, np.random.default_rng(0).standard_normal(30)) * PX_PER_MM + 400
ALL = np.ones(74, dtype=bool)


def landmarks(points=TRUTH, sd_px=1.0, seen=ALL) -> Landmarks:
    return Landmarks(points, np.tile(np.eye(2) * sd_px**2, (74, 1, 1)), seen)


def test_point_confidence_is_a_rayleigh_probability():
    made = landmarks(sd_px=3.0)
    radius = TOLERANCE * made.width_px
    draws = np.random.default_rng(1).normal(0, 3.0, (200_000, 2))
    assert made.point_confidence[0] == pytest.approx(np.mean(np.hypot(*draws.T) <= radius), abs=0.005)
    assert landmarks(seen=~ALL).confidence == 0.0


def test_heat_maps_one_cell_wide_give_the_minimum_error():
    made = landmarks_from_heatmaps(TRUTH, np.tile(np.eye(2) * 16.0, (74, 1, 1)), ALL, cell_px=4.0)
    np.testing.assert_allclose(made.covariance_px2, np.tile(np.eye(2) * (MIN_ERROR_CELLS * 4.0) ** 2, (74, 1, 1)))
    wide = landmarks_from_heatmaps(TRUTH, np.tile(np.diag([16.0, 100.0]), (74, 1, 1)), ALL, cell_px=4.0)
    assert (wide.covariance_px2[:, 1, 1] > 5 * wide.covariance_px2[:, 0, 0]).all()


def test_a_transform_applies_to_points_and_covariances():
    matrix = np.array([[0.0, -2.0, 5.0], [2.0, 0.0, 7.0]])
    first = Landmarks(TRUTH, np.tile(np.diag([1.0, 9.0]), (74, 1, 1)), ALL)
    moved = first.moved(matrix)
    np.testing.assert_allclose(moved.points_px[3], [5 - 2 * TRUTH[3, 1], 7 + 2 * TRUTH[3, 0]])
    np.testing.assert_allclose(moved.covariance_px2[3], np.diag([36.0, 4.0]))
    np.testing.assert_allclose(moved.point_confidence, first.point_confidence)


def test_the_shape_model_places_points_that_are_not_seen():
    seen = ALL.copy()
    seen[[0, 1, 2, 34, 35, 36, 37, 38, 72, 73]] = False
    broken = TRUTH.copy()
    broken[~seen] = -1e4
    made = regularize_by_shape(landmarks(broken, 0.5, seen), SHAPE)
    assert np.linalg.norm(made.points_px - TRUTH, axis=1)[~seen].max() < 6 * PX_PER_MM
    np.testing.assert_allclose(made.covariance_px2[0], np.eye(2) * (UNSEEN_ERROR * landmarks(broken).width_px) ** 2)
    assert (made.seen == seen).all()


def test_uncertain_points_move_towards_the_shape_and_certain_points_stay():
    wrong = TRUTH.copy()
    wrong[20] += 40
    errors = np.tile(np.eye(2), (74, 1, 1))
    errors[20] *= 40**2
    made = regularize_by_shape(Landmarks(wrong, errors, ALL), SHAPE)
    assert np.linalg.norm(made.points_px[20] - TRUTH[20]) < 0.45 * np.linalg.norm(wrong[20] - TRUTH[20])
    np.testing.assert_allclose(np.delete(made.points_px, 20, 0), np.delete(TRUTH, 20, 0), atol=0.5)
    np.testing.assert_allclose(regularize_by_shape(landmarks(TRUTH, 0.01), SHAPE).points_px, TRUTH, atol=0.05)


def test_landmarks_without_confident_points_are_unchanged():
    uncertain = landmarks(sd_px=100.0)
    assert regularize_by_shape(uncertain, SHAPE) is uncertain
