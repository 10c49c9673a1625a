import math

import numpy as np
import torch
from torch import nn

from kneegrade.anatomy.geometry import Pose
from kneegrade.anatomy.landmark_networks import LOCALIZER_PX, MOST, Candidate, localize_knees, spread_out


def candidate(x, y, score, width=50.0) -> Candidate:
    return Candidate(Pose((x, y), width, (0.0, 1.0), mirrored=False), score)


def test_of_two_near_ones_the_better_stays():
    kept = spread_out([candidate(0, 0, 0.4), candidate(10, 0, 0.9), candidate(100, 0, 0.5)])
    assert [c.score for c in kept] == [0.9, 0.5]
    assert len(spread_out([candidate(100 * i, 0, 0.5) for i in range(9)])) == MOST


class BrightSpots(nn.Module):
    """Calls a knee wherever an 8×8 block is bright; what it says of size and direction is fixed."""

    def forward(self, picture):
        mean = nn.functional.avg_pool2d(picture, 8)[:, 0]
        maps = torch.zeros(len(picture), 4, *mean.shape[1:])
        maps[:, 0] = 20 * (mean - 0.5)
        maps[:, 1], maps[:, 3] = math.log(40 / LOCALIZER_PX), 1.0
        return maps, torch.zeros(len(picture))


def test_a_long_film_is_searched_in_squares_and_places_are_those_of_the_film():
    """A spot too small to be bright on the whole film shrunk to 256 px is found in a square of it."""
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


def test_a_usual_film_is_searched_once():
    calls = []

    class Counting(BrightSpots):
        def forward(self, picture):
            calls.append(picture.shape)
            return super().forward(picture)

    localize_knees(Counting(), np.zeros((700, 512), dtype=np.float32), 0.5, torch.device("cpu"))
    assert len(calls) == 1
