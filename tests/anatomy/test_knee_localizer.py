import math

import numpy as np
import torch
from torch import nn

from kneegrade.anatomy.geometry import Pose
from kneegrade.anatomy.knee_localizer import (
    LOCALIZER_PX,
    MAX_CANDIDATES,
    Candidate,
    localize_knees,
    non_maximum_suppression,
)


def candidate(x, y, score, width=50.0) -> Candidate:
    return Candidate(Pose((x, y), width, (0.0, 1.0), mirrored=False), score)


def test_non_maximum_suppression_keeps_the_better_of_two_near_candidates():
    kept = non_maximum_suppression([candidate(0, 0, 0.4), candidate(10, 0, 0.9), candidate(100, 0, 0.5)])
    assert [c.score for c in kept] == [0.9, 0.5]
    assert len(non_maximum_suppression([candidate(100 * i, 0, 0.5) for i in range(9)])) == MAX_CANDIDATES


class BrightSpots(nn.Module):
    """Localizer that reports a knee at every bright 8×8 block, with a fixed size and direction."""

    def forward(self, image):
        mean = nn.functional.avg_pool2d(image, 8)[:, 0]
        maps = torch.zeros(len(image), 4, *mean.shape[1:])
        maps[:, 0] = 20 * (mean - 0.5)
        maps[:, 1], maps[:, 3] = math.log(40 / LOCALIZER_PX), 1.0
        return maps, torch.zeros(len(image))


def test_a_long_film_is_searched_in_squares_with_positions_in_film_pixels():
    """A spot that is too small to be bright in the whole film, scaled to 256 px, is found in one of the squares."""
    film = np.zeros((2048, 512), dtype=np.float32)
    film[1504:1520, 208:224] = 1.0
    found = localize_knees(BrightSpots(), film, 0.5, torch.device("cpu"))
    assert found
    x, y = found[0].pose.centre
    assert abs(x - 215.5) < 24
    assert abs(y - 1511.5) < 24
    wide = localize_knees(BrightSpots(), np.ascontiguousarray(film.T), 0.5, torch.device("cpu"))
    assert abs(wide[0].pose.centre[0] - 1511.5) < 24
    assert wide[0].pose.width == found[0].pose.width


def test_a_film_of_usual_proportions_is_searched_once():
    calls = []

    class Counting(BrightSpots):
        def forward(self, image):
            calls.append(image.shape)
            return super().forward(image)

    localize_knees(Counting(), np.zeros((700, 512), dtype=np.float32), 0.5, torch.device("cpu"))
    assert len(calls) == 1
