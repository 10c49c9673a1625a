"""The check of image quality does not depend on the crop size of the grading network."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from kneegrade.anatomy import Landmarks, build_knee, refusal
from kneegrade.anatomy.laterality import SideAssignment
from kneegrade.imaging import Radiograph
from kneegrade.phantom import FilmOptions, render_film

ROI_SIZES = (224, 288, 384)
FILM = render_film(8, 3, FilmOptions("single_right", pixel_spacing_mm=0.3))


def check(pixels: np.ndarray, roi_px: int) -> str:
    """Code of the finding of `refusal` for the knee of the film, or "passed"."""
    points = FILM.knees[0].landmarks_px
    landmarks = Landmarks(points, np.tile(np.eye(2), (len(points), 1, 1)), np.ones(len(points), dtype=bool))
    knee = build_knee(
        Radiograph(pixels.astype(np.float32)),
        landmarks,
        SideAssignment("R", 1.0),
        landmark_confidence=1.0,
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
