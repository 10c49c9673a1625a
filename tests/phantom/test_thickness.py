from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.phantom.phantom_knee import sample_knee
from kneegrade.phantom.render_params import Canvas, render_params_of, stack
from kneegrade.phantom.rois import Placement
from kneegrade.phantom.thickness import coarse_step, leg_maps


def maps_of(knee, placement, shape):
    """Thickness maps of one knee without texture, each (H, W)."""
    to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
    return leg_maps(stack([render_params_of(knee)]), Canvas(to_mm, shape, 1), torch.zeros((1, *shape)))


def test_coarse_distances_give_almost_the_same_bones():
    knee = next(k for k in (sample_knee(9, i, "uniform") for i in range(40)) if len(k.spurs) >= 3)
    placement = Placement.level(knee.outline_mm, 320, 1.2)
    to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
    fine, coarse = (
        leg_maps(stack([render_params_of(knee)]), Canvas(to_mm, (320, 320), step), torch.zeros(1, 320, 320)).bone
        for step in (1, coarse_step(320, 1.2 * 80))
    )
    difference = (fine - coarse).abs()
    assert float(difference.mean()) < 0.35  # mm, of about 40 mm
    assert float(difference.flatten().quantile(0.99)) < 4.0


def test_joint_space_measured_in_the_bone_map_is_the_true_width():
    """The gap is measured in a high-resolution bone map in which the plateau is horizontal."""
    knee = next(k for k in (sample_knee(9, i) for i in range(40)) if not k.spurs and k.joint_space_mm.lateral > 4)
    placement = Placement.level(knee.outline_mm, 1000, 1.1)
    smooth = replace(knee, build=replace(knee.build, rim_medial=0.0, rim_lateral=0.0))
    bone = maps_of(smooth, placement, (1000, 1000)).bone[0].numpy()
    ends = placement.to_px(knee.outline_mm[[63, 47]])
    column = round(float(ends[0, 0] + 0.825 * (ends[1, 0] - ends[0, 0])))
    middle = round(float(placement.to_px(knee.outline_mm)[[14, 49], 1].mean()))
    empty = bone[:, column] < 1.0
    top, bottom = middle, middle
    while empty[top - 1]:
        top -= 1
    while empty[bottom + 1]:
        bottom += 1
    gap_mm = (bottom - top + 1) / placement.px_per_mm
    assert gap_mm == pytest.approx(knee.joint_space_mm.lateral, abs=0.25)


def test_bone_is_inside_the_landmarks_and_absent_from_the_joint_space():
    knee = sample_knee(2, 5)
    shape = (200, 200)
    placement = Placement.of((100.0, 100.0), 1.4, 0.0, knee.side == "L")
    bone = maps_of(knee, placement, shape).bone[0]
    points = placement.to_px(knee.outline_mm)
    gap = (points[14] + points[49]) / 2
    condyle, plateau = points[14] - [0, 10], points[49] + [0, 10]
    values = [bone[round(float(y)), round(float(x))] for x, y in (condyle, gap, plateau)]
    assert values[0] > 20
    assert values[2] > 20
    assert values[1] < 5


def test_fibula_is_lateral():
    for side, lateral_is_left in (("R", True), ("L", False)):
        knee = replace(sample_knee(3, 1), side=side)
        shape = (240, 300)
        placement = Placement.of((150.0, 40.0), 1.5, 0.0, side == "L")
        profile = maps_of(knee, placement, shape).bone[0, 200].numpy()  # about 105 mm below the joint: two bones
        runs = np.flatnonzero(np.diff(np.r_[0, (profile > 0.5).astype(int), 0]))
        widths, starts = runs[1::2] - runs[::2], runs[::2]
        assert len(widths) == 2
        assert (starts[widths.argmin()] < starts[widths.argmax()]) == lateral_is_left
