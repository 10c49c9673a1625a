import numpy as np
import pytest

from kneegrade.phantom import render_rois, sample_knee
from kneegrade.training.metal.drawn_metal import draw_metal, knee_mm
from kneegrade.training.metal.metal_shapes import KIND_SHARES, KINDS, MetalPart, sample_metal

SIDE = 216


@pytest.fixture(scope="module")
def landmarks_px():
    """Of a phantom in a picture of 1.2 plateau widths."""
    return render_rois([sample_knee(3, 0)], SIDE, 1.2)[1][0].astype(np.float64)


def test_every_kind_has_a_share():
    assert len(KIND_SHARES) == len(KINDS)
    assert sum(KIND_SHARES) == pytest.approx(1)


def test_millimetres_are_those_of_a_plateau_of_80(landmarks_px):
    points_mm, px_per_mm = knee_mm(landmarks_px)
    assert px_per_mm == pytest.approx(SIDE / 1.2 / 80, rel=1e-3)
    assert np.hypot(*(points_mm[63] - points_mm[47])) == pytest.approx(80)


@pytest.mark.parametrize("kind", KINDS)
def test_most_metal_of_every_kind_lies_on_the_picture_of_the_knee(kind, landmarks_px):
    points_mm, px_per_mm = knee_mm(landmarks_px)
    picture = np.full((SIDE, SIDE), 0.5, dtype=np.float32)
    visible = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn, area = draw_metal(picture, sample_metal(points_mm, rng, kind), px_per_mm, rng)
        if kind != "total_knee":  # its tibial component replaces bone by plastic
            assert (drawn >= picture - 1e-6).all()
        assert area == pytest.approx(float((drawn - picture).sum()) / px_per_mm**2)
        visible.append(area)
    assert np.mean(np.array(visible) > 12) >= 0.8


def test_depths_add_and_leave_a_share_of_the_distance_to_white():
    """Two crossing plates of depth 1; white is 0.85 to 1.5, and the depth of an implant is scaled by 0.7 to 4.1."""
    picture = np.full((60, 60), 0.2, dtype=np.float32)
    plate = MetalPart(np.array([[10.0, 25], [50, 25], [50, 35], [10, 35]]), 1.0)
    other = MetalPart(plate.points_mm[:, ::-1], 1.0)
    drawn, _ = draw_metal(picture, [plate, other], 1.0, np.random.default_rng(1))
    once, twice = float(drawn[30, 15]), float(drawn[30, 30])
    white = (twice * 0.2 - once**2) / (twice + 0.2 - 2 * once)  # of (white − b)·q and (white − b)·q²
    assert 0.85 <= white <= 1.5
    assert 0.7 <= -np.log((white - once) / (white - 0.2)) <= 4.1
    assert drawn[5, 5] == pytest.approx(0.2, abs=1e-6)


def test_bone_brighter_than_white_stays_and_removed_bone_is_darker():
    corners = np.array([[10.0, 10], [50, 10], [50, 50], [10, 50]])
    bright = np.full((60, 60), 1.6, dtype=np.float32)
    drawn, visible = draw_metal(bright, [MetalPart(corners, 3.0)], 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, bright)
    assert visible == 0
    grey = np.full((60, 60), 0.5, dtype=np.float32)
    drawn, _ = draw_metal(grey, [MetalPart(corners, -0.3)], 1.0, np.random.default_rng(0))
    assert 0 <= drawn[30, 30] < 0.45


def test_rods_are_thinner_at_their_edges():
    rod = MetalPart(np.array([[10.0, 30], [50, 30]]), 0.5, 6.0)
    drawn, _ = draw_metal(np.zeros((60, 60), dtype=np.float32), [rod], 1.0, np.random.default_rng(0))
    assert drawn[30, 30] > drawn[34, 30] > drawn[37, 30] == pytest.approx(0, abs=0.01)
