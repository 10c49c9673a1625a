import numpy as np

from kneegrade.anatomy.landmarks import Landmarks
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.reporting.landmark_export import SURE, UNSEEN, UNSURE, WIDTH, overlay

POINTS = ShapeModel.load().mean({}) * 4 + [400, 400]


def colours(sd_px, seen, **options):
    """Colours and size of the overlay of a knee with given landmark errors."""
    landmarks = Landmarks(POINTS, np.tile(np.eye(2) * sd_px**2, (74, 1, 1)), seen)
    drawn = overlay(np.zeros((800, 800), dtype=np.float32), [(landmarks, "R 0.9")], **options)
    return {tuple(colour) for colour in np.asarray(drawn).reshape(-1, 3)}, drawn.size


def test_colours_show_the_confidence_of_each_point():
    seen = np.ones(74, dtype=bool)
    seen[:4] = False
    sure, size = colours(0.5, seen)
    assert {SURE, UNSEEN, WIDTH} <= sure
    assert UNSURE not in sure
    assert size == (800, 800)
    unsure, size = colours(20.0, seen, longest_px=400, widths=False)
    assert UNSURE in unsure
    assert WIDTH not in unsure
    assert size == (400, 400)
