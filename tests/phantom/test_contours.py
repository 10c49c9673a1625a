import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from kneegrade.phantom.contours import (
    Polygons,
    ShaftShape,
    Spur,
    bone_contour,
    polygon,
    raise_spur,
    signed_distance,
)
from kneegrade.phantom.phantom_knee import sample_knee


def test_contour_passes_through_the_landmarks():
    knee = sample_knee(11, 0, "paper")
    for bone, start in (("femur", 0), ("tibia", 37)):
        contour = bone_contour(knee.outline_mm, bone, ShaftShape(14.0, 0.1, 35.0))
        for number in range(start, start + 37):
            assert np.hypot(*(contour.points - knee.outline_mm[number]).T).min() < 0.3


def test_spur_area_is_length_times_base_over_sharpness_plus_one():
    spur = Spur("osteophyte_tibia_medial", 3, 6.0, 9.0, 0.0, 1.0)
    y = np.linspace(-20, 20, 4001)
    margin = np.stack([np.zeros_like(y), y], axis=1)
    raised = raise_spur(margin, np.linspace(83.3, 43.3, 4001), spur)
    assert trapezoid(raised[:, 0], y) == pytest.approx(6.0 * 9.0 / (1.0 + 1.0), rel=0.02)


def padded_polygons(points, attributes, size):
    vertices, rest = polygon(points, attributes, size)
    return Polygons(*(torch.from_numpy(part).float().unsqueeze(0) for part in (vertices, rest)))


@pytest.mark.parametrize("direction", [1, -1])
def test_signed_distance_from_a_circle(direction):
    angle = direction * np.linspace(0, 2 * np.pi, 600, endpoint=False)
    circle = np.stack([50.3 + 30 * np.cos(angle), 49.6 + 30 * np.sin(angle)], axis=1)
    y, x = np.mgrid[:100, :100]
    positions = torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1), dtype=torch.float32).unsqueeze(0)
    distance, attribute = signed_distance(padded_polygons(circle, circle[:, :1], 640), positions)
    exact = 30 - np.hypot(x - 50.3, y - 49.6)
    np.testing.assert_allclose(distance[0].numpy().reshape(100, 100), exact, atol=0.01)
    nearest_x = 50.3 + 30 * (x - 50.3) / np.maximum(np.hypot(x - 50.3, y - 49.6), 1e-3)
    far = np.hypot(x - 50.3, y - 49.6) > 3
    np.testing.assert_allclose(attribute[0, :, 0].numpy().reshape(100, 100)[far], nearest_x[far], atol=0.4)


def test_signed_distance_near_a_sharp_corner():
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 2.0]])
    pairs = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    triangle = np.concatenate(
        [one + np.linspace(0, 1, 50, endpoint=False)[:, None] * (two - one) for one, two in pairs]
    )
    positions = torch.tensor([[[11.0, 0.0], [9.0, 0.05], [9.0, 0.5], [-1.0, 1.0], [1.0, 1.0], [12.0, 1.0]]])
    distance, _ = signed_distance(padded_polygons(triangle, triangle[:, :1], 150), positions)
    edge = np.array([10.0, -2.0]) / np.hypot(10, 2)  # from (0, 2) to (10, 0)
    from_edge = (np.array([9.0, 0.5]) - [0, 2]) @ [edge[1], -edge[0]]
    expected = [
        -1.0,
        0.05,
        from_edge,
        -1.0,
        abs((np.array([1.0, 1.0]) - [0, 2]) @ [edge[1], -edge[0]]),
        -np.hypot(2, 1),
    ]
    np.testing.assert_allclose(distance[0].numpy(), expected, atol=3e-3)
