"""Pictures that show several films: screenshots, contact sheets, figures."""

from functools import cache

import numpy as np
import pytest

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.geometry import Pose
from kneegrade.anatomy.several_films import several_films
from kneegrade.imaging import read_radiograph
from kneegrade.imaging.box_filters import block_means
from kneegrade.phantom import FilmOptions, render_film

HEIGHT = 360


@pytest.fixture(scope="module")
def detector() -> LandmarkDetector:
    return LandmarkDetector()


@cache
def film(layout, index=3, height=HEIGHT):
    """A phantom film of the given height, in a frame of HEIGHT rows."""
    pixels = render_film(90210, index, FilmOptions(layout, longest_px=700)).pixels
    pixels = block_means(pixels, round(height * max(pixels.shape) / pixels.shape[0]))
    framed = np.zeros((HEIGHT, pixels.shape[1]), dtype=np.float32)
    framed[: pixels.shape[0]] = pixels[:HEIGHT]
    return framed


def one_above_the_other(*films):
    width = max(pixels.shape[1] for pixels in films)
    return np.concatenate([np.pad(pixels, ((0, 0), (0, width - pixels.shape[1]))) for pixels in films])


def found(detector, pixels):
    knees, warnings = detector.find(read_radiograph(pixels))
    return [knee.side for knee in knees], [warning.code for warning in warnings], [w.message for w in warnings]


def test_eight_knees_of_four_films_are_counted(detector):
    row = np.concatenate([film("bilateral", 3), film("bilateral", 5)], axis=1)
    sides, codes, messages = found(detector, one_above_the_other(row, row[:, ::-1]))
    assert len(sides) == 2
    assert codes == ["more_knees"]
    assert messages[0].startswith("8 knees were seen")
    assert "Only 2 of them are in the results." in messages[0]


def test_a_film_of_one_knee_beside_a_film_of_two_is_counted(detector):
    _, codes, messages = found(detector, np.concatenate([film("bilateral"), film("single_left")], axis=1))
    assert codes == ["more_knees"]
    assert messages[0].startswith("3 knees were seen")


@pytest.mark.parametrize("sides", [["R", "R"], ["L", "L"], ["L", "R"]])
def test_knees_one_above_the_other_have_the_sides_of_their_anatomy(detector, sides):
    names = {"R": "single_right", "L": "single_left"}
    got, codes, _ = found(detector, one_above_the_other(*(film(names[side]) for side in sides)))
    assert sorted(got) == sorted(sides)
    assert codes == ["knees_stacked"]


def test_the_film_of_a_screenshot_with_thumbnails_is_read_without_them(detector):
    thumbnails = np.concatenate([film("bilateral", index, height=60)[:60] for index in (3, 5)], axis=1)
    shot = one_above_the_other(thumbnails, film("bilateral"))
    assert found(detector, shot)[:2] == (["R", "L"], [])


def test_another_part_of_the_body_beside_a_film_is_not_counted(detector):
    assert found(detector, np.concatenate([film("bilateral"), film("none")], axis=1))[:2] == (["R", "L"], [])


def pose(x, y, down=(0.0, 1.0)):
    return Pose((x, y), 50.0, down, mirrored=False)


@pytest.mark.parametrize("down", [(0.0, 1.0), (1.0, 0.0), (0.6, 0.8)])
def test_knees_are_side_by_side_across_the_legs_whatever_the_rotation_of_the_film(down):
    across = (down[1], -down[0])
    assert several_films([pose(0, 0, down), pose(200 * across[0], 200 * across[1], down)], 2) is None
    stacked = several_films([pose(0, 0, down), pose(200 * down[0], 200 * down[1], down)], 2)
    assert stacked is not None
    assert stacked.code == "knees_stacked"


def test_one_knee_or_none_is_one_film():
    assert several_films([pose(0, 0)], 1) is None
    assert several_films([], 0) is None
