from dataclasses import replace

import numpy as np
import pytest

from kneegrade.clinical.drawing import knee_drawing
from kneegrade.results import Finding

METAL = Finding("implant", "Metal covers a part of the joint. The knee was not graded; grade it by eye.")


def knee_of(film, side):
    return next(knee for knee in film.film.knees if knee.side == side)


def test_calipers_have_the_lengths_of_the_measured_widths(bilateral):
    knee = knee_of(bilateral, "R")
    space = knee.joint_space
    for where, measured in (("medial", space.medial), ("lateral", space.lateral)):
        line = knee_drawing(knee).calipers[where]
        length = np.linalg.norm(line[1] - line[0]) / space.tibial_width_px.value
        assert length == pytest.approx(measured.value, rel=0.02)


def test_lateral_is_outside_and_medial_between_the_knees(bilateral):
    """On a frontal film the right knee is on the left, and its lateral side at the film's left border."""
    for side, sign in (("R", 1), ("L", -1)):
        calipers = knee_drawing(knee_of(bilateral, side)).calipers
        across = calipers["medial"].mean(axis=0) - calipers["lateral"].mean(axis=0)
        assert sign * across[0] > 100


def test_landmarks_outside_the_film_interrupt_the_outline(single):
    knee = replace(single.film.knees[0], landmarks_outside=(0, 1, 20, 73))
    stretches = knee_drawing(knee).outlines
    assert [len(stretch) for stretch in stretches] == [18, 16, 36]
    points = knee.landmarks_px
    assert np.array_equal(np.concatenate(stretches), np.delete(points, [0, 1, 20, 73], axis=0))


def test_a_refused_knee_has_outlines_and_no_calipers(single):
    drawing = knee_drawing(replace(single.film.knees[0], grades=None, joint_space=None, reason=METAL))
    assert len(drawing.outlines) == 2
    assert drawing.calipers == {}


@pytest.mark.parametrize("landmarks", [None, np.full((74, 2), np.nan)])
def test_a_knee_without_landmarks_has_no_drawing(single, landmarks):
    assert knee_drawing(replace(single.film.knees[0], landmarks_px=landmarks)) is None
