import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kneegrade.anatomy.geometry import extract_crop, pose_of, roi_frame, sample_affine, stretch_contrast
from kneegrade.anatomy.landmark_scheme import COMPARTMENTS, FEMUR_NOTCH, NUM_LANDMARKS, TIBIA_VALLEY
from kneegrade.anatomy.shape_model import ShapeModel


def outline(scale: float = 3.0, angle_deg: float = 0.0, mirrored: bool = False, at=(400.0, 300.0)) -> np.ndarray:
    """The mean knee in pixels; lateral on the image's left unless mirrored."""
    points = ShapeModel.load().coefficients_mm[0] * scale
    if mirrored:
        points = points * [-1, 1]
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + np.array(at)


def test_compartments_share_the_middle_of_each_bone():
    assert set(COMPARTMENTS["FL"]) & set(COMPARTMENTS["FM"]) == {FEMUR_NOTCH}
    assert set(COMPARTMENTS["TL"]) & set(COMPARTMENTS["TM"]) == {TIBIA_VALLEY}
    assert set().union(*(COMPARTMENTS[c] for c in ("FL", "FM", "TL", "TM"))) == set(range(NUM_LANDMARKS))


@given(scale=st.floats(0.5, 10), angle=st.floats(-180, 180), mirrored=st.booleans(), x=st.floats(-500, 500))
def test_a_knee_fills_its_region_alike_wherever_it_lies(scale, angle, mirrored, x):
    plain = outline()
    moved = outline(scale, angle, mirrored, at=(x, 50.0))
    expected = roi_frame(plain, 224).to_roi(plain)
    np.testing.assert_allclose(roi_frame(moved, 224).to_roi(moved), expected, atol=1e-6)
    assert roi_frame(moved, 224).mirrored is mirrored


def test_frame_maps_there_and_back():
    points = outline(angle_deg=12, mirrored=True)
    frame = roi_frame(points, 320)
    np.testing.assert_allclose(frame.to_source(frame.to_roi(points)), points, atol=1e-9)


def test_region_is_level_upright_and_lateral_left():
    points = outline(angle_deg=170, mirrored=True)
    inside = roi_frame(points, 224).to_roi(points)
    assert inside[47, 0] < inside[63, 0]
    assert inside[47, 1] == pytest.approx(inside[63, 1])
    assert inside[:37, 1].mean() < inside[37:, 1].mean()


def test_pose_points_down_the_leg():
    assert pose_of(outline()).down == pytest.approx((0, 1), abs=0.1)
    assert pose_of(outline(angle_deg=180)).down == pytest.approx((0, -1), abs=0.1)


def test_a_closed_joint_is_not_taken_for_its_mirror_image():
    outline = ShapeModel.load().mean({"kl": 4, "jsn_medial": 3})
    closed = outline.copy()
    closed[:37, 1] += 12.0
    assert not pose_of(closed).mirrored
    assert pose_of(closed * [-1, 1]).mirrored
    np.testing.assert_allclose(pose_of(closed).down, pose_of(outline).down)


def test_a_ramp_is_sampled_exactly_and_padding_is_marked():
    image = torch.arange(10.0).expand(1, 1, 8, 10)
    matrix = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    cut, inside = sample_affine(image, matrix, 12)
    torch.testing.assert_close(cut[0, 0, 3, :9], torch.arange(9) + 0.5)
    assert inside[0, 0, 3].tolist() == [True] * 9 + [False] * 3
    assert not inside[0, 0, 8:].any()
    assert (cut[~inside] == 0).all()


@pytest.mark.parametrize("factor", [1, 3, 5])
def test_a_finer_film_gives_the_same_region(factor):
    """A smooth picture at `factor` times the resolution, landmarks moved with the pixels."""
    coarse_points = outline(scale=2.0, angle_deg=7, at=(110.0, 100.0))

    def picture(height, width, f):
        y, x = np.mgrid[:height, :width]
        x, y = ((axis + 0.5) / f - 0.5 for axis in (x, y))
        return (0.5 + 0.25 * np.sin(x / 17) + 0.25 * np.cos(y / 23)).astype(np.float32)

    plain, _ = extract_crop(picture(220, 240, 1), roi_frame(coarse_points, 96))
    fine_points = (coarse_points + 0.5) * factor - 0.5
    fine, _ = extract_crop(picture(220 * factor, 240 * factor, factor), roi_frame(fine_points, 96))
    assert (plain - fine)[..., 5:-5, 5:-5].abs().max() < 0.005


def test_contrast_is_stretched_alike_in_a_batch_and_alone_and_ignores_padding():
    regions = torch.rand(3, 1, 40, 40) * 0.3 + 0.2
    inside = torch.ones_like(regions, dtype=torch.bool)
    inside[1, :, :, 20:] = False
    together = stretch_contrast(regions, inside)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], stretch_contrast(regions[i : i + 1], inside[i : i + 1]))
    assert (together[1, :, :, 20:] == 0).all()
    assert together[0].min() == 0
    assert together[0].max() == 1
