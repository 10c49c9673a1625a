"""Stretched images: the estimate, its removal, and the way back to pixels of the source."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kneegrade.anatomy import LandmarkDetector, UserLandmarks, knees_from_landmarks
from kneegrade.anatomy.detected_knees import DetectedKnee
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.pixel_aspect import (
    MIN_CONFIDENCE_TO_RESAMPLE,
    NOT_SQUARE,
    pixel_aspect,
    scale_ratio,
    search_square,
    with_square_pixels,
)
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.phantom import FilmOptions, render_film


def outline(*, angle_deg=0.0, stretch=1.0, mirrored=False):
    """Landmarks of a natural knee on an image of (400, 400 · stretch) pixels."""
    coefficients, angle = ShapeModel.load().coefficients_mm, np.deg2rad(angle_deg)
    turned = (coefficients[0] + coefficients[1]) @ np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    return (turned * [-2 if mirrored else 2, 2] + 200) * [stretch, 1]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0, 12])
@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.25])
def test_the_ratio_of_scales_is_the_stretch_whatever_side_and_rotation(stretch, angle_deg, mirrored):
    points = outline(angle_deg=angle_deg, stretch=stretch, mirrored=mirrored)
    assert scale_ratio(points, (400, round(400 * stretch))) == pytest.approx(stretch, rel=1e-6)


def test_a_knee_of_natural_shape_has_square_pixels():
    assert pixel_aspect(1.08) == 1
    assert pixel_aspect(1.15) > 1.15


def test_the_second_estimate_uses_the_measured_share():
    true, share = 1.4, 0.5
    first = pixel_aspect(1.02 * true**share)
    second = pixel_aspect(1.02 * true**share, (first, 1.02 * (true / first) ** share))
    assert second == pytest.approx(true, rel=1e-6)


def test_points_move_with_the_resampled_image():
    pixels = np.zeros((40, 60), dtype=np.float32)
    pixels[20, 42:45] = 1
    square, matrix = with_square_pixels(pixels, 1.5)
    assert square.shape == (40, 40)
    column = square[20] @ np.arange(40) / square[20].sum()
    assert matrix @ [43, 20, 1] == pytest.approx([column, 20], abs=0.05)


def test_too_few_or_coinciding_landmarks_have_no_ratio():
    assert np.isnan(scale_ratio(outline() + 1000, (400, 400)))
    assert np.isnan(scale_ratio(np.full((74, 2), 20.0), (400, 400)))
    assert pixel_aspect(float("nan")) == 1


WIDE = Radiograph(np.zeros((400, 520), dtype=np.float32))


def detection(knee_probability):
    """A detection on `WIDE`, whose outline is stretched by 1.3; its confidence is at most `knee_probability`."""
    landmarks = Landmarks(outline(stretch=1.3), np.tile(np.eye(2), (74, 1, 1)), np.ones(74, dtype=bool))
    return DetectedKnee(landmarks, lateral_left=1.0, knee_probability=knee_probability, score=0.2)


@pytest.mark.parametrize(("first", "second", "calls"), [
    ([], [], 1),
    ([detection(MIN_CONFIDENCE_TO_RESAMPLE - 0.01)], [], 1),
    ([detection(0.9)], [], 2),
    ([detection(0.9), detection(0.4)], [detection(0.95)], 2),
    ([detection(0.9)], [detection(0.8)], 2),
])  # fmt: skip
def test_a_film_is_left_as_it_is_where_that_finds_more_or_surer_knees(first, second, calls):
    seen = []

    def search(pixels):
        seen.append(pixels.shape)
        return first if pixels.shape == WIDE.pixels.shape else second

    found = search_square(WIDE, search)
    assert found.radiograph is WIDE
    assert found.knees == first
    assert found.pixel_aspect == 1
    assert len(seen) == calls


@pytest.fixture(scope="module")
def film():
    return render_film(90210, 3, FilmOptions("single_left", longest_px=900))


@pytest.fixture(scope="module")
def detector() -> LandmarkDetector:
    return LandmarkDetector()


def stretched(pixels, factor):
    size = (round(pixels.shape[1] * factor), pixels.shape[0])
    return np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


def test_a_stretched_film_gives_the_crop_of_the_natural_one(detector, film):
    (plain,), _ = detector.find(read_radiograph(film.pixels))
    wide = read_radiograph(stretched(film.pixels, 1.35))
    (knee,), warnings = detector.find(wide)
    assert NOT_SQUARE in warnings
    assert np.corrcoef(knee.roi.ravel(), plain.roi.ravel())[0, 1] > 0.95
    np.testing.assert_allclose(knee.frame.to_source(knee.roi_landmarks_px), knee.landmarks_px, atol=1e-6)
    assert knee.pixel_aspect == pytest.approx(1.35, rel=0.1)
    scale, shift = np.array([1 / knee.pixel_aspect, 1]), np.array([0.5, 0.5])
    np.testing.assert_allclose(knee.square_landmarks.points_px, (knee.landmarks_px + shift) * scale - shift, atol=1e-9)
    true = (film.knees[0].landmarks_px + 0.5) * [wide.pixels.shape[1] / film.pixels.shape[1], 1] - 0.5
    error = np.linalg.norm(knee.landmarks_px - true, axis=1)[list(ARTICULAR)]
    assert np.median(error) < 0.02 * np.linalg.norm(true[63] - true[47])


def test_a_declared_stretch_is_removed_exactly_unless_the_outline_contradicts_it(detector, film):
    wide = read_radiograph(stretched(film.pixels, 1.35))
    (knee,), warnings = detector.find(replace(wide, pixel_aspect=1.35))
    assert warnings == ()
    assert knee.pixel_aspect == pytest.approx(1.35, rel=0.002)
    (knee,), warnings = detector.find(replace(read_radiograph(film.pixels), pixel_aspect=2.0))
    assert warnings == ()
    assert knee.pixel_aspect == 1


def test_a_film_with_a_trusted_spacing_is_taken_as_it_is(detector, film):
    wide = read_radiograph(stretched(film.pixels, 1.35), pixel_spacing_mm=(0.2, 0.2))
    assert NOT_SQUARE not in detector.find(wide)[1]


def test_a_film_without_a_knee_has_none(detector):
    nothing = render_film(8, 1, FilmOptions("none", longest_px=600))
    assert NOT_SQUARE not in detector.find(read_radiograph(nothing.pixels))[1]


def test_landmarks_of_the_detector_in_a_file_give_its_crop(detector, film, tmp_path):
    wide = read_radiograph(stretched(film.pixels, 1.35))
    (knee,), _ = detector.find(wide)
    write_pts(tmp_path / "film.pts", knee.landmarks_px)
    points = UserLandmarks(tmp_path).of("film.png", wide)
    (marked,), warnings = knees_from_landmarks(wide, points, detector.roi_px)
    assert NOT_SQUARE in warnings
    assert np.corrcoef(marked.roi.ravel(), knee.roi.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(marked.landmarks_px, knee.landmarks_px, atol=1e-3)


def test_exact_landmarks_show_the_whole_stretch(film):
    wide = read_radiograph(stretched(film.pixels, 1.35))
    points = (film.knees[0].landmarks_px + 0.5) * [wide.pixels.shape[1] / film.pixels.shape[1], 1] - 0.5
    (plain,), _ = knees_from_landmarks(read_radiograph(film.pixels), film.knees[0].landmarks_px[None], 224)
    (knee,), _ = knees_from_landmarks(wide, points[None], 224)
    assert plain.pixel_aspect == 1
    assert knee.pixel_aspect == pytest.approx(1.35, rel=0.06)
    assert np.corrcoef(knee.roi.ravel(), plain.roi.ravel())[0, 1] > 0.99
    trusted = read_radiograph(wide.pixels, pixel_spacing_mm=(0.2, 0.2))
    assert knees_from_landmarks(trusted, points[None], 224)[0][0].pixel_aspect == 1
