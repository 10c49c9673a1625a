import numpy as np
import pytest

from kneegrade.anatomy.shape_model import ShapeModel, similarity
from kneegrade.errors import UsageError

MODEL = ShapeModel.load()


def placed(shape: np.ndarray, angle_deg: float = 12.0, scale: float = 5.5) -> np.ndarray:
    angle = np.deg2rad(angle_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return shape @ turn.T + [640.0, 480.0]


def test_mean_is_linear_in_the_grades():
    zero, one, two = (MODEL.mean({"jsn_medial": grade}) for grade in (0, 1, 2))
    np.testing.assert_allclose(two - one, one - zero, atol=1e-12)
    assert not np.allclose(one, zero)


def test_landmarks_run_from_lateral_to_medial_and_the_tibia_is_below_the_femur():
    mean = MODEL.mean()
    assert mean[12, 0] < mean[24, 0]
    assert mean[47, 0] < mean[63, 0]
    assert mean[37:, 1].mean() > mean[:37, 1].mean()


def test_samples_have_the_standard_deviation_of_the_modes():
    rng = np.random.default_rng(0)
    samples = np.stack([MODEL.sample({"kl": 1}, rng, limit=10.0) for _ in range(1500)])
    expected = np.sqrt(np.einsum("k,knd->nd", MODEL.mode_sd_mm**2, MODEL.modes**2))
    np.testing.assert_allclose(samples.std(axis=0), expected, rtol=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_of_weight_zero_are_completed(mirrored: bool):
    truth = placed(MODEL.sample({"kl": 2}, np.random.default_rng(5), limit=1.5))
    if mirrored:
        truth = truth * [-1, 1]
    weights = np.ones(74)
    hidden = [*range(4), *range(33, 41), *range(70, 74)]
    weights[hidden] = 0
    points = truth.copy()
    points[hidden] = np.nan
    fit = MODEL.fit(points, weights, mirrored=mirrored, noise_mm=0.3)
    error = np.hypot(*(fit.points - truth).T) / 5.5
    assert error[weights > 0].mean() < 0.5
    assert error[hidden].mean() < 3.0
    assert (np.linalg.det(fit.matrix) < 0) == mirrored


def test_fit_rotates_with_its_points():
    shape = MODEL.sample({}, np.random.default_rng(1))
    one, other = (MODEL.fit(placed(shape, angle), np.ones(74)) for angle in (0.0, 90.0))
    moved = (one.points - [640, 480]) @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + [640, 480]
    np.testing.assert_allclose(other.points, moved, atol=1e-6)


def test_fit_of_the_mirror_image_is_the_mirror_image_of_the_fit():
    points = placed(MODEL.sample({"kl": 3}, np.random.default_rng(3)))
    weights = np.where(np.arange(74) % 5 == 0, 0.0, 1.0)
    right = MODEL.fit(points, weights)
    left = MODEL.fit(points * [-1, 1], weights, mirrored=True)
    np.testing.assert_allclose(left.points, right.points * [-1, 1], atol=1e-9)
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-9)


def test_similarity_recovers_rotation_scale_and_shift():
    source = np.random.default_rng(2).normal(size=(20, 2))
    target = placed(source, 33.0, 2.5)
    matrix, offset = similarity(source, target, np.ones(20))
    np.testing.assert_allclose(source @ matrix.T + offset, target, atol=1e-9)
    assert np.sqrt(np.linalg.det(matrix)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("points", "weights"),
    [(np.zeros((73, 2)), np.ones(73)), (np.zeros((74, 2)), np.zeros(74)), (np.full((74, 2), np.nan), np.ones(74))],
)
def test_unusable_points_raise_a_usage_error(points: np.ndarray, weights: np.ndarray):
    with pytest.raises(UsageError):
        MODEL.fit(points, weights)
