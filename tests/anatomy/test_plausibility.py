"""The verdict on a knee's picture does not depend on the size of the regions that the grader is given."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from kneegrade.anatomy import Landmarks, knee_at, refusal
from kneegrade.anatomy.laterality import SideCall
from kneegrade.imaging import Radiograph
from kneegrade.phantom import FilmOptions, render_film

ROI_SIZES = (224, 288, 384)
FILM = render_film(8, 3, FilmOptions("single_right", pixel_spacing_mm=0.3))


def verdict(pixels: np.ndarray, roi_px: int) -> str:
    """What `refusal` says of the film's knee."""
    points = FILM.knees[0].landmarks_px
    outline = Landmarks(points, np.tile(np.eye(2), (len(points), 1, 1)), np.ones(len(points), dtype=bool))
    knee = knee_at(Radiograph(pixels.astype(np.float32)), outline, SideCall("R", 1.0), (1.0, roi_px))
    assert knee.roi.shape == (roi_px, roi_px)
    finding = refusal(knee)
    return "sound" if finding is None else finding.code


def on_both_sides(changed: Callable[[float], np.ndarray], low: float, high: float) -> list[np.ndarray]:
    """Two films that differ by next to nothing, of which a grader of 224 px gets the one as sound, not the other."""
    for _ in range(30):
        middle = (low + high) / 2
        if verdict(changed(middle), 224) == "sound":
            low = middle
        else:
            high = middle
    return [changed(low), changed(high)]


def test_blur_near_the_threshold_has_one_verdict_at_every_size():
    sharp, blurred = on_both_sides(lambda sigma: ndimage.gaussian_filter(FILM.pixels, sigma), 0.5, 3.0)
    assert [verdict(sharp, size) for size in ROI_SIZES] == ["sound"] * 3
    assert [verdict(blurred, size) for size in ROI_SIZES] == ["blur"] * 3


def test_over_exposure_near_the_threshold_has_one_verdict_at_every_size():
    sound, clipped = on_both_sides(lambda gain: np.clip(FILM.pixels * gain, 0, 1), 1.0, 4.0)
    assert [verdict(sound, size) for size in ROI_SIZES] == ["sound"] * 3
    assert [verdict(clipped, size) for size in ROI_SIZES] == ["exposure"] * 3
