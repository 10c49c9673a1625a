"""The shipped detector on phantom films with seeds that were not used for training."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.anatomy import LandmarkDetector, detected_knees
from kneegrade.anatomy.knee_localizer import localize_knees
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


@contextmanager
def crops_read_by_the_fine_network(detector):
    """Number of crops of each call of the fine network, in order."""
    numbers = []
    hook = detector.fine.register_forward_pre_hook(lambda _, inputs: numbers.append(len(inputs[0])))
    yield numbers
    hook.remove()


@pytest.fixture(scope="module")
def two_knees():
    return read_radiograph(render_film(SEED, 1, FilmOptions("bilateral", longest_px=900)).pixels).pixels


def test_the_second_look_reads_the_knees_below_the_threshold_alone(detector, two_knees, monkeypatch):
    monkeypatch.setattr(detected_knees, "SURE_CONFIDENCE", 0.0)
    with crops_read_by_the_fine_network(detector) as numbers:
        once = detector.search(two_knees)
    assert numbers == [2]
    low, high = sorted(knee.confidence for knee in once)
    monkeypatch.setattr(detected_knees, "SURE_CONFIDENCE", (low + high) / 2)
    with crops_read_by_the_fine_network(detector) as numbers:
        mixed = detector.search(two_knees)
    assert numbers == [2, 1]
    for before, after in zip(once, mixed, strict=True):
        same = np.array_equal(before.landmarks.points_px, after.landmarks.points_px)
        assert same == (before.confidence == high)


def test_landmarks_of_a_sure_knee_are_near_those_of_two_looks(detector, two_knees, monkeypatch):
    """Within 0.5 % of the tibial width on average over the joint surfaces; half of that is usual."""
    monkeypatch.setattr(detected_knees, "SURE_CONFIDENCE", 0.0)
    once = detector.search(two_knees)
    monkeypatch.setattr(detected_knees, "SURE_CONFIDENCE", 1.1)
    twice = detector.search(two_knees)
    for a, b in zip(once, twice, strict=True):
        distance = np.linalg.norm(a.landmarks.points_px - b.landmarks.points_px, axis=1)[list(ARTICULAR)]
        assert 0 < distance.mean() < 0.005 * b.landmarks.width_px
        assert a.lateral_left == b.lateral_left
        assert a.knee_probability == b.knee_probability


def test_the_fine_network_reads_no_candidate_with_hopeless_coarse_landmarks(detector, two_knees):
    candidates = localize_knees(detector.knee_localizer, two_knees, 0.15, detector.device)
    empty = replace(candidates[0].pose, centre=(0.0, 0.0), width=candidates[0].pose.width / 4)
    low = replace(candidates[0], pose=empty, score=0.3)
    looks = detector._look_coarsely(two_knees, [*candidates, low])
    assert [look.candidate for look in detected_knees.promising(looks)] == candidates
    confident = replace(looks[-1], candidate=replace(low, score=0.7))
    assert detected_knees.promising([*looks[:-1], confident])[-1] is confident
    assert detected_knees.promising(looks[-1:] * 2) == looks[-1:] * 2
