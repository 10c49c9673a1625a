"""The shipped detector on phantom films with seeds that were not used for training."""

import numpy as np
import pytest

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import FilmOptions, render_film

SEED = 90210


@pytest.fixture(scope="module")
def detector() -> LandmarkDetector:
    return LandmarkDetector()


def plateau_width(landmarks):
    return np.linalg.norm(landmarks[63] - landmarks[47])


@pytest.mark.parametrize("layout", ["bilateral", "single_right", "single_left"])
@pytest.mark.parametrize("index", [0, 1])
def test_knees_sides_and_landmarks_of_a_film_are_correct(detector, layout, index):
    film = render_film(SEED, index, FilmOptions(layout, longest_px=900))
    knees, warnings = detector.find(read_radiograph(film.pixels))
    assert [knee.side for knee in knees] == [knee.side for knee in film.knees]
    assert warnings == ()
    for found, true in zip(knees, film.knees, strict=True):
        error = np.linalg.norm(found.landmarks_px - true.landmarks_px, axis=1)[list(ARTICULAR)]
        assert np.median(error) < 0.02 * plateau_width(true.landmarks_px)
        assert found.landmark_confidence > 0.65
        assert found.on_film_share == 1.0


def test_crop_and_landmarks_of_a_left_knee_are_mirrored_together(detector):
    film = render_film(SEED, 3, FilmOptions("single_left", longest_px=900))
    (knee,), _ = detector.find(read_radiograph(film.pixels))
    assert knee.frame.mirrored
    assert knee.roi.shape == (224, 224)
    np.testing.assert_allclose(knee.frame.to_source(knee.roi_landmarks_px), knee.landmarks_px, atol=1e-6)
    assert knee.visible[list(ARTICULAR)].all()


@pytest.mark.parametrize("index", range(4))
def test_a_film_without_a_knee_gives_no_confident_knee(detector, index):
    film = render_film(SEED, index, FilmOptions("none", longest_px=600))
    knees, _ = detector.find(read_radiograph(film.pixels))
    assert all(knee.landmark_confidence < 0.65 for knee in knees)


def test_confidence_is_the_mean_point_confidence_times_the_knee_probability(detector):
    for layout in ("single_left", "none"):
        film = render_film(SEED, 3, FilmOptions(layout, longest_px=900))
        for found in detector.search(read_radiograph(film.pixels).pixels):
            mean = found.landmarks.point_confidence[list(ARTICULAR)].mean()
            assert 0 < found.knee_probability < 1
            assert found.confidence == pytest.approx(found.knee_probability * mean)
