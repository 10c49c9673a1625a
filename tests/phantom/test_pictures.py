from dataclasses import replace

import numpy as np
import pytest
import torch

from kneegrade.errors import UsageError
from kneegrade.phantom.film import FilmOptions, compose_film, render_film
from kneegrade.phantom.phantom_knee import sample_knee
from kneegrade.phantom.render_params import Polygons, polygon, render_params_of, signed_distance, stack
from kneegrade.phantom.rois import Placement, render_roi, render_rois, roi_placement
from kneegrade.phantom.texture import blurred, normal_pair, trabeculae
from kneegrade.phantom.thickness import Canvas, coarse_step, leg_maps
from kneegrade.phantom.xray import attenuation_per_mm


def drawn(knee, placement, shape):
    """Thickness maps of one knee without texture, each (H, W)."""
    to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
    return leg_maps(stack([render_params_of(knee)]), Canvas(to_mm, shape, 1), torch.zeros((1, *shape)))


def polygons(points, attributes, size):
    vertices, rest = polygon(points, attributes, size)
    return Polygons(*(torch.from_numpy(part).float().unsqueeze(0) for part in (vertices, rest)))


@pytest.mark.parametrize("direction", [1, -1])
def test_signed_distance_of_a_circle(direction):
    angle = direction * np.linspace(0, 2 * np.pi, 600, endpoint=False)
    circle = np.stack([50.3 + 30 * np.cos(angle), 49.6 + 30 * np.sin(angle)], axis=1)
    y, x = np.mgrid[:100, :100]
    where = torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1), dtype=torch.float32).unsqueeze(0)
    distance, attribute = signed_distance(polygons(circle, circle[:, :1], 640), where)
    exact = 30 - np.hypot(x - 50.3, y - 49.6)
    np.testing.assert_allclose(distance[0].numpy().reshape(100, 100), exact, atol=0.01)
    nearest_x = 50.3 + 30 * (x - 50.3) / np.maximum(np.hypot(x - 50.3, y - 49.6), 1e-3)
    far = np.hypot(x - 50.3, y - 49.6) > 3
    np.testing.assert_allclose(attribute[0, :, 0].numpy().reshape(100, 100)[far], nearest_x[far], atol=0.4)


def test_signed_distance_about_a_sharp_corner():
    corners = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 2.0]])
    pairs = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    triangle = np.concatenate(
        [one + np.linspace(0, 1, 50, endpoint=False)[:, None] * (two - one) for one, two in pairs]
    )
    where = torch.tensor([[[11.0, 0.0], [9.0, 0.05], [9.0, 0.5], [-1.0, 1.0], [1.0, 1.0], [12.0, 1.0]]])
    distance, _ = signed_distance(polygons(triangle, triangle[:, :1], 150), where)
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


def test_noise_is_normal_and_depends_on_key_and_stream_alone():
    keys = torch.tensor([5, 6, 2**31 - 1])
    one, two = normal_pair(keys, 0, (300, 301))
    for field in (*one, *two):
        assert abs(float(field.mean())) < 0.02
        assert abs(float(field.std()) - 1) < 0.02
        assert abs(float((field**4).mean()) - 3) < 0.12
        beside = torch.corrcoef(torch.stack([field[:, :-1].flatten(), field[:, 1:].flatten()]))[0, 1]
        assert abs(float(beside)) < 0.02
    fields = [one[0], one[1], one[2], two[0], normal_pair(keys, 1, (300, 301))[0][0]]
    mixed = torch.corrcoef(torch.stack([field.flatten() for field in fields])) - torch.eye(5)
    assert float(mixed.abs().max()) < 0.02
    torch.testing.assert_close(normal_pair(keys[1:2], 0, (300, 301))[0][0], one[1], rtol=0, atol=0)


def test_blur_of_an_impulse_is_a_gaussian_of_its_own_width():
    impulse = torch.zeros(2, 61, 61)
    impulse[:, 30, 30] = 1
    spread = blurred(impulse, [2.0, 5.0])
    offset = torch.arange(61.0) - 30
    for picture, sigma in zip(spread, (2.0, 5.0), strict=True):
        assert float(picture.sum()) == pytest.approx(1.0, abs=1e-4)
        assert float((picture.sum(0) * offset**2).sum().sqrt()) == pytest.approx(sigma, rel=0.03)
    torch.testing.assert_close(blurred(impulse[:1], [2.0])[0], spread[0])


def test_strands_run_along_the_leg():
    for angle, along_rows in ((0.0, True), (90.0, False)):
        to_mm = torch.from_numpy(Placement.of((0.0, 0.0), 3.0, angle, False).to_mm_matrix()).float().unsqueeze(0)
        field = trabeculae(torch.tensor([3]), (256, 256), to_mm)[0]
        assert float(field.std()) == pytest.approx(1.0, abs=0.25)
        down = float((field[3:] * field[:-3]).mean())
        across = float((field[:, 3:] * field[:, :-3]).mean())
        assert (down > across) == along_rows


@pytest.mark.parametrize("size_px", [128, 320])  # distances at every pixel, and at every fourth
def test_a_batch_is_its_knees_one_by_one(size_px):
    knees = [sample_knee(9, index, "uniform", implants=0.5) for index in range(4)]
    assert len({knee.implant is None for knee in knees}) == 2
    together, landmarks = render_rois(knees, size_px, widths=1.3)
    for knee, picture, points in zip(knees, together, landmarks, strict=True):
        alone, own = render_rois([knee], size_px, widths=1.3)
        torch.testing.assert_close(alone[0], picture, atol=2e-3, rtol=0)
        np.testing.assert_array_equal(own[0], points)


def test_coarse_distances_draw_the_same_bones():
    knee = next(k for k in (sample_knee(9, i, "uniform") for i in range(40)) if len(k.spurs) >= 3)
    placement = Placement.level(knee.outline_mm, 320, 1.2)
    to_mm = torch.from_numpy(placement.to_mm_matrix()).float().unsqueeze(0)
    fine, coarse = (
        leg_maps(stack([render_params_of(knee)]), Canvas(to_mm, (320, 320), step), torch.zeros(1, 320, 320)).bone
        for step in (1, coarse_step(320, 1.2 * 80))
    )
    apart = (fine - coarse).abs()
    assert float(apart.mean()) < 0.35  # mm, of some 40
    assert float(apart.flatten().quantile(0.99)) < 4.0


def test_bytes_do_not_depend_on_the_number_of_threads():
    knee, before = sample_knee(9, 3), torch.get_num_threads()
    try:
        pictures = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pictures.append(np.rint(render_roi(knee, 320)[0] * 255).astype(np.uint8))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*pictures)


def test_autocast_around_the_renderer_changes_nothing():
    knee = sample_knee(9, 3)
    plain = render_rois([knee], 128, widths=1.2)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = render_rois([knee], 128, widths=1.2)[0]
    torch.testing.assert_close(plain, inside, atol=0, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_what_the_cpu_draws():
    knees = [sample_knee(9, index, "uniform", implants=0.5) for index in range(4)]
    here, there = (render_rois(knees, 320, widths=1.3, device=device)[0].cpu() for device in ("cpu", "cuda"))
    assert float((here - there).abs().mean()) < 1e-3


def test_joint_space_of_the_picture_is_the_truth():
    """Bone is drawn finely and the gap measured in it, along the plateau's own direction."""
    knee = next(k for k in (sample_knee(9, i) for i in range(40)) if not k.spurs and k.joint_space_mm.lateral > 4)
    placement = Placement.level(knee.outline_mm, 1000, 1.1)
    smooth = replace(knee, build=replace(knee.build, rim_medial=0.0, rim_lateral=0.0))
    bone = drawn(smooth, placement, (1000, 1000)).bone[0].numpy()
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


def test_level_region_shows_every_knee_lateral_left():
    knees = [sample_knee(9, index) for index in range(4)]
    _, landmarks = render_rois(knees, 96, widths=1.2)
    for points in landmarks:
        assert points[63, 0] - points[47, 0] == pytest.approx(96 / 1.2)
        assert points[63, 1] == pytest.approx(points[47, 1])
        assert points[18, 1] < points[55, 1]


def test_metal_is_brighter_than_bone():
    knee = next(k for k in (sample_knee(4, i, implants=1.0) for i in range(40)) if k.implant.kind == "total_knee")
    picture = render_rois([knee], 160, widths=1.3)[0][0]
    placement = Placement.level(knee.outline_mm, 160, 1.3)
    bar = knee.implant.bars[8]  # of the femoral shell, amid the joint
    x, y = placement.to_px(np.array([bar.start]) / 2 + np.array([bar.end]) / 2)[0]
    assert float(picture[round(y), round(x)]) >= float(picture.flatten().quantile(0.97))


def test_roi_is_the_same_every_time_and_in_range():
    knee = sample_knee(2, 3)
    (one, first), (two, second) = render_roi(knee, 96), render_roi(knee, 96)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first, second)
    assert one.dtype == np.float32
    assert one.shape == (96, 96)
    assert 0 <= one.min() < one.max() <= 1
    np.testing.assert_allclose(roi_placement(knee, 96).to_px(knee.outline_mm), first)


def test_landmarks_follow_size_rotation_and_side():
    knee = replace(sample_knee(2, 4), side="R")
    _, plain = render_roi(knee, 64, 120.0, rotation_deg=0.0)
    _, double = render_roi(knee, 128, 120.0, rotation_deg=0.0)
    _, turned = render_roi(knee, 64, 120.0, rotation_deg=90.0)
    _, left = render_roi(replace(knee, side="L"), 64, 120.0, rotation_deg=0.0)
    np.testing.assert_allclose(double - 63.5, 2 * (plain - 31.5), atol=1e-9)
    x, y = (plain - 31.5).T
    np.testing.assert_allclose(turned - 31.5, np.stack([-y, x], axis=1), atol=1e-9)
    np.testing.assert_allclose(left[:, 0], 63 - plain[:, 0], atol=1e-9)
    assert plain[47, 0] < plain[63, 0]  # lateral on the image's left for a right knee


def test_bone_lies_inside_the_landmarks():
    knee = sample_knee(2, 5)
    shape = (200, 200)
    placement = Placement.of((100.0, 100.0), 1.4, 0.0, knee.side == "L")
    bone = drawn(knee, placement, shape).bone[0]
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
        mineral = drawn(knee, placement, shape).bone[0, 200].numpy()  # some 105 mm below the joint: two bones
        runs = np.flatnonzero(np.diff(np.r_[0, (mineral > 0.5).astype(int), 0]))
        widths, starts = runs[1::2] - runs[::2], runs[::2]
        assert len(widths) == 2
        assert (starts[widths.argmin()] < starts[widths.argmax()]) == lateral_is_left


def test_attenuation_of_the_cited_tables():
    assert attenuation_per_mm("bone", 50.0) == pytest.approx(0.4242 * 1.92 / 10)
    assert attenuation_per_mm("fat", 45.0) < attenuation_per_mm("muscle", 45.0) < attenuation_per_mm("bone", 45.0)


def test_bilateral_film_has_the_right_knee_on_the_left():
    film = render_film(4, 0, FilmOptions("bilateral", longest_px=160))
    assert [shown.side for shown in film.knees] == ["R", "L"]
    right, left = (shown.landmarks_px for shown in film.knees)
    assert right[:, 0].mean() < left[:, 0].mean()
    assert right[47, 0] < right[63, 0]
    assert left[47, 0] > left[63, 0]
    assert max(film.pixels.shape) == 160


def test_film_is_repeatable_and_scales_with_its_spacing():
    one, two = (render_film(4, 7, FilmOptions("single_left", pixel_spacing_mm=1.5)) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, two.pixels)
    fine = compose_film(4, 7, FilmOptions("single_left", pixel_spacing_mm=0.5))
    np.testing.assert_allclose(fine.knees[0].landmarks_px, 3 * one.knees[0].landmarks_px)


def test_a_film_is_magnified():
    film = compose_film(4, 9, FilmOptions("single_right", pixel_spacing_mm=0.2))
    points = film.knees[0].landmarks_px * film.pixel_spacing_mm
    width = np.hypot(*(points[63] - points[47]))
    truth = np.hypot(*(film.knees[0].knee.outline_mm[63] - film.knees[0].knee.outline_mm[47]))
    assert width == pytest.approx(truth * film.plan.magnification)


def test_films_show_their_joints():
    for index in range(40):
        scene = compose_film(5, index, FilmOptions("random", longest_px=300))
        for shown in scene.knees:
            middle = shown.landmarks_px[[18, 55]].mean(axis=0)
            assert (middle > 0).all()
            assert (middle < scene.shape[::-1]).all()


def test_layout_none_has_no_knee_and_unknown_layouts_are_refused():
    for index in range(12):
        film = render_film(6, index, FilmOptions("none", longest_px=100))
        assert film.knees == ()
        assert np.isfinite(film.pixels).all()
    with pytest.raises(UsageError, match="bilateral"):
        FilmOptions("hip")
    with pytest.raises(UsageError, match="positive"):
        FilmOptions(longest_px=0)
