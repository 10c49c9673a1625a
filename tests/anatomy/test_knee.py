"""First check of a knee: image quality at every crop size of the grading network, and outlines that are no knee's."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from kneegrade.anatomy import Landmarks, build_knee, refusal
from kneegrade.anatomy.laterality import SideAssignment
from kneegrade.imaging import Radiograph
from kneegrade.phantom import FilmOptions, render_film

ROI_SIZES = (224, 288, 384)
FILM = render_film(8, 3, FilmOptions("single_right", pixel_spacing_mm=0.3))


POINTS = FILM.knees[0].landmarks_px


def check(
    pixels: np.ndarray, roi_px: int, *, points: np.ndarray = POINTS, error_px: float = 1.0, confidence: float = 1.0
) -> str:
    """Code of the finding of `refusal` for a knee of the film, or "passed"."""
    covariance = error_px**2 * np.tile(np.eye(2), (len(points), 1, 1))
    landmarks = Landmarks(points, covariance, np.ones(len(points), dtype=bool))
    knee = build_knee(
        Radiograph(pixels.astype(np.float32)),
        landmarks,
        SideAssignment("R", 1.0),
        landmark_confidence=confidence,
        roi_px=roi_px,
    )
    assert knee.roi.shape == (roi_px, roi_px)
    finding = refusal(knee)
    return "passed" if finding is None else finding.code


def around_threshold(changed: Callable[[float], np.ndarray], low: float, high: float) -> list[np.ndarray]:
    """Two nearly equal films of which only the first passes with a crop of 224 px, found by bisection."""
    for _ in range(30):
        middle = (low + high) / 2
        if check(changed(middle), 224) == "passed":
            low = middle
        else:
            high = middle
    return [changed(low), changed(high)]


def test_blur_near_the_threshold_is_judged_equally_at_every_crop_size():
    sharp, blurred = around_threshold(lambda sigma: ndimage.gaussian_filter(FILM.pixels, sigma), 0.5, 3.0)
    assert [check(sharp, size) for size in ROI_SIZES] == ["passed"] * 3
    assert [check(blurred, size) for size in ROI_SIZES] == ["blur"] * 3


def test_overexposure_near_the_threshold_is_judged_equally_at_every_crop_size():
    unclipped, clipped = around_threshold(lambda gain: np.clip(FILM.pixels * gain, 0, 1), 1.0, 4.0)
    assert [check(unclipped, size) for size in ROI_SIZES] == ["passed"] * 3
    assert [check(clipped, size) for size in ROI_SIZES] == ["exposure"] * 3


def test_a_right_outline_passes_whatever_the_probability_of_the_view():
    """The knee of a tight crop: the landmarks are right, but the network doubts that the crop shows a knee."""
    assert check(FILM.pixels, 224, confidence=0.01) == "passed"


def test_an_outline_that_is_no_knees_is_refused_if_its_confidence_is_low():
    femur_on_tibia = np.concatenate([POINTS[37:], POINTS[:37]])
    width = np.linalg.norm(POINTS[63] - POINTS[47])
    random = POINTS + np.random.default_rng(0).normal(0, 0.05 * width, POINTS.shape)
    assert [check(FILM.pixels, 224, points=p, confidence=0.01) for p in (femur_on_tibia, random)] == ["view"] * 2


def test_an_outline_that_the_heat_maps_do_not_show_is_refused():
    width = float(np.linalg.norm(POINTS[63] - POINTS[47]))
    assert check(FILM.pixels, 224, error_px=0.05 * width, confidence=0.01) == "view"
