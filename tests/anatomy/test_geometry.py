from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kneegrade.anatomy.geometry import (
    extract_crop,
    extract_crops,
    frame_at,
    pose_of,
    roi_frame,
    sample_affine,
    stretch_contrast,
)
from kneegrade.anatomy.landmark_scheme import COMPARTMENTS, FEMUR_NOTCH, NUM_LANDMARKS, TIBIA_VALLEY
from kneegrade.anatomy.shape_model import ShapeModel


def landmarks(scale: float = 3.0, angle_deg: float = 0.0, mirrored: bool = False, at=(400.0, 300.0)) -> np.ndarray:
    """Landmarks of the mean knee in pixels, with lateral on the left of the image unless mirrored."""
    points = ShapeModel.load().coefficients_mm[0] * scale
    if mirrored:
        points = points * [-1, 1]
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + np.array(at)


def test_compartments_share_the_middle_landmark_of_each_bone():
    assert set(COMPARTMENTS["FL"]) & set(COMPARTMENTS["FM"]) == {FEMUR_NOTCH}
    assert set(COMPARTMENTS["TL"]) & set(COMPARTMENTS["TM"]) == {TIBIA_VALLEY}
    assert set().union(*(COMPARTMENTS[c] for c in ("FL", "FM", "TL", "TM"))) == set(range(NUM_LANDMARKS))


@given(scale=st.floats(0.5, 10), angle=st.floats(-180, 180), mirrored=st.booleans(), x=st.floats(-500, 500))
def test_landmarks_in_the_crop_do_not_depend_on_the_pose_of_the_knee(scale, angle, mirrored, x):
    plain = landmarks()
    moved = landmarks(scale, angle, mirrored, at=(x, 50.0))
    expected = roi_frame(plain, 224).to_roi(plain)
    np.testing.assert_allclose(roi_frame(moved, 224).to_roi(moved), expected, atol=1e-6)
    assert roi_frame(moved, 224).mirrored is mirrored


def test_to_source_inverts_to_roi():
    points = landmarks(angle_deg=12, mirrored=True)
    frame = roi_frame(points, 320)
    np.testing.assert_allclose(frame.to_source(frame.to_roi(points)), points, atol=1e-9)


def test_the_crop_is_level_and_upright_with_lateral_on_the_left():
    points = landmarks(angle_deg=170, mirrored=True)
    inside = roi_frame(points, 224).to_roi(points)
    assert inside[47, 0] < inside[63, 0]
    assert inside[47, 1] == pytest.approx(inside[63, 1])
    assert inside[:37, 1].mean() < inside[37:, 1].mean()


def test_down_points_from_femur_to_tibia():
    assert pose_of(landmarks()).down == pytest.approx((0, 1), abs=0.1)
    assert pose_of(landmarks(angle_deg=180)).down == pytest.approx((0, -1), abs=0.1)


def test_orientation_of_a_closed_joint_is_correct():
    normal = ShapeModel.load().mean({"kl": 4, "jsn_medial": 3})
    closed = normal.copy()
    closed[:37, 1] += 12.0
    assert not pose_of(closed).mirrored
    assert pose_of(closed * [-1, 1]).mirrored
    np.testing.assert_allclose(pose_of(closed).down, pose_of(normal).down)


def test_a_ramp_is_sampled_exactly_and_padding_is_masked():
    image = torch.arange(10.0).expand(1, 1, 8, 10)
    matrix = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    cut, inside = sample_affine(image, matrix, 12)
    torch.testing.assert_close(cut[0, 0, 3, :9], torch.arange(9) + 0.5)
    assert inside[0, 0, 3].tolist() == [True] * 9 + [False] * 3
    assert not inside[0, 0, 8:].any()
    assert (cut[~inside] == 0).all()


@pytest.mark.parametrize("factor", [1, 3, 5])
def test_the_crop_does_not_depend_on_the_resolution_of_the_film(factor):
    """A smooth image at `factor` times the resolution, with scaled landmarks."""
    coarse_points = landmarks(scale=2.0, angle_deg=7, at=(110.0, 100.0))

    def image(height, width, f):
        y, x = np.mgrid[:height, :width]
        x, y = ((axis + 0.5) / f - 0.5 for axis in (x, y))
        return (0.5 + 0.25 * np.sin(x / 17) + 0.25 * np.cos(y / 23)).astype(np.float32)

    plain, _ = extract_crop(image(220, 240, 1), roi_frame(coarse_points, 96))
    fine_points = (coarse_points + 0.5) * factor - 0.5
    fine, _ = extract_crop(image(220 * factor, 240 * factor, factor), roi_frame(fine_points, 96))
    assert (plain - fine)[..., 5:-5, 5:-5].abs().max() < 0.005


def test_contrast_stretching_of_a_batch_equals_that_of_each_item_and_ignores_padding():
    crops = torch.rand(3, 1, 40, 40) * 0.3 + 0.2
    inside = torch.ones_like(crops, dtype=torch.bool)
    inside[1, :, :, 20:] = False
    together = stretch_contrast(crops, inside)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], stretch_contrast(crops[i : i + 1], inside[i : i + 1]))
    assert (together[1, :, :, 20:] == 0).all()
    assert together[0].min() == 0
    assert together[0].max() == 1


def test_crops_of_one_part_of_a_film_are_those_of_single_calls():
    film = np.random.default_rng(4).random((300, 340), dtype=np.float32)
    pose = pose_of(landmarks(scale=2.0, angle_deg=7, at=(160.0, 150.0)))
    frames = [frame_at(replace(pose, mirrored=mirrored), 64, 1.8) for mirrored in (False, True, False)]
    for (crop, inside), frame in zip(extract_crops(film, frames), frames, strict=True):
        alone, alone_inside = extract_crop(film, frame)
        assert torch.equal(crop, alone)
        assert torch.equal(inside, alone_inside)
