from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.phantom.phantom_knee import sample_knee
from kneegrade.phantom.rois import Placement, render_roi, render_rois, roi_placement


def test_roi_is_reproducible_and_in_range():
    knee = sample_knee(2, 3)
    (one, first), (two, second) = render_roi(knee, 96), render_roi(knee, 96)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first, second)
    assert one.dtype == np.float32
    assert one.shape == (96, 96)
    assert 0 <= one.min() < one.max() <= 1
    np.testing.assert_allclose(roi_placement(knee, 96).to_px(knee.outline_mm), first)


def test_landmarks_depend_on_size_rotation_and_side():
    knee = replace(sample_knee(2, 4), side="R")
    _, plain = render_roi(knee, 64, 120.0, rotation_deg=0.0)
    _, double = render_roi(knee, 128, 120.0, rotation_deg=0.0)
    _, rotated = render_roi(knee, 64, 120.0, rotation_deg=90.0)
    _, left = render_roi(replace(knee, side="L"), 64, 120.0, rotation_deg=0.0)
    np.testing.assert_allclose(double - 63.5, 2 * (plain - 31.5), atol=1e-9)
    x, y = (plain - 31.5).T
    np.testing.assert_allclose(rotated - 31.5, np.stack([-y, x], axis=1), atol=1e-9)
    np.testing.assert_allclose(left[:, 0], 63 - plain[:, 0], atol=1e-9)
    assert plain[47, 0] < plain[63, 0]  # lateral on the image's left for a right knee


def test_level_crop_has_a_horizontal_plateau_and_lateral_on_the_left():
    knees = [sample_knee(9, index) for index in range(4)]
    _, landmarks = render_rois(knees, 96, extent_in_plateau_widths=1.2)
    for points in landmarks:
        assert points[63, 0] - points[47, 0] == pytest.approx(96 / 1.2)
        assert points[63, 1] == pytest.approx(points[47, 1])
        assert points[18, 1] < points[55, 1]


def test_metal_is_brighter_than_bone():
    knee = next(k for k in (sample_knee(4, i, implants=1.0) for i in range(40)) if k.implant.kind == "total_knee")
    image = render_rois([knee], 160, extent_in_plateau_widths=1.3)[0][0]
    placement = Placement.level(knee.outline_mm, 160, 1.3)
    bar = knee.implant.bars[8]  # part of the femoral component, in the middle of the joint
    x, y = placement.to_px(np.array([bar.start]) / 2 + np.array([bar.end]) / 2)[0]
    assert float(image[round(y), round(x)]) >= float(image.flatten().quantile(0.97))


@pytest.mark.parametrize("size_px", [128, 320])  # distances computed at every pixel, and at every fourth
def test_a_batch_equals_its_knees_rendered_one_by_one(size_px):
    knees = [sample_knee(9, index, "uniform", implants=0.5) for index in range(4)]
    assert len({knee.implant is None for knee in knees}) == 2
    together, landmarks = render_rois(knees, size_px, extent_in_plateau_widths=1.3)
    for knee, image, points in zip(knees, together, landmarks, strict=True):
        alone, own = render_rois([knee], size_px, extent_in_plateau_widths=1.3)
        torch.testing.assert_close(alone[0], image, atol=2e-3, rtol=0)
        np.testing.assert_array_equal(own[0], points)


def test_bytes_do_not_depend_on_the_number_of_threads():
    knee, before = sample_knee(9, 3), torch.get_num_threads()
    try:
        images = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(np.rint(render_roi(knee, 320)[0] * 255).astype(np.uint8))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*images)


def test_autocast_does_not_affect_the_renderer():
    knee = sample_knee(9, 3)
    plain = render_rois([knee], 128, extent_in_plateau_widths=1.2)[0]
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = render_rois([knee], 128, extent_in_plateau_widths=1.2)[0]
    torch.testing.assert_close(plain, under_autocast, atol=0, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_renders_the_same_images_as_the_cpu():
    knees = [sample_knee(9, index, "uniform", implants=0.5) for index in range(4)]
    on_cpu, on_cuda = (
        render_rois(knees, 320, extent_in_plateau_widths=1.3, device=device)[0].cpu() for device in ("cpu", "cuda")
    )
    assert float((on_cpu - on_cuda).abs().mean()) < 1e-3
