"""A mirrored film and a negative of a film get the grades of the film."""

import numpy as np
import pytest

from kneegrade import Grader
from kneegrade.phantom import FilmOptions, render_film
from kneegrade.schema import TARGET_NAMES


@pytest.fixture(scope="module")
def grader():
    return Grader("cpu")


def film(index):
    """A phantom film with one knee, 12 bits as an array of floats in [0, 1]."""
    return np.asarray(render_film(505, index, FilmOptions("single_right", "uniform", pixel_spacing_mm=0.3)).pixels)


def grades(report):
    (knee,) = report.radiographs[0].knees
    assert knee.grades is not None, knee.reason
    return {name: knee.grades[name].grade for name in TARGET_NAMES}, knee


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_mirrored_film_swaps_sides_and_keeps_lateral_and_medial(grader, index):
    """No averaging over mirror images: a knee's lateral grades would then be mixed with its medial ones."""
    pixels = film(index)
    seen, knee = grades(grader.grade(pixels))
    mirrored, other = grades(grader.grade(pixels[:, ::-1].copy()))
    assert mirrored == seen
    assert {knee.side, other.side} == {"R", "L"}
    for name in TARGET_NAMES:
        first, second = knee.grades[name].probabilities, other.grades[name].probabilities
        np.testing.assert_allclose(second, first, atol=0.05)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_negative_gets_the_same_grades(grader, index):
    pixels = np.rint(film(index) * 4095).astype(np.uint16)  # integers, as in a file: both films become the same bits
    assert grades(grader.grade(4095 - pixels))[0] == grades(grader.grade(pixels))[0]
