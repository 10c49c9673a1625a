from dataclasses import replace

import numpy as np
import pytest

from kneegrade.clinical.graphic_layers import layer_contents
from kneegrade.clinical.job import RESEARCH_USE
from kneegrade.clinical.result_text import width_texts
from kneegrade.results import Finding, GradedRadiograph

SIZE = (1179, 1700)  # of the bilateral example


def texts_of(contents):
    return [line.text for content in contents for line in content.lines]


def test_layers_and_their_content(bilateral):
    contents = {content.layer.name: content for content in layer_contents(bilateral.film, SIZE, 0.9)}
    assert {name: len(content.polylines) for name, content in contents.items()} == {
        "OUTLINES": 4, "CALIPERS": 4, "GRADES": 0,
    }  # fmt: skip
    assert [line.text for line in contents["CALIPERS"].lines] == ["medial", "lateral"] * 2
    widths = [width_texts(knee.joint_space) for knee in bilateral.film.knees]
    assert [line.text for line in contents["GRADES"].lines] == [
        RESEARCH_USE,
        "Film: Spacing at detector, magnification not corrected",
        "Right knee: KL 1 (90 %: 0-2)",
        "JSN M 0  JSN L 0",
        "OST FM 0  FL 0  TM 0  TL 0",
        *(f"JSW {text}" for text in widths[0]),
        "To be decided by a reader",
        "Left knee: KL 2",
        "JSN M 1  JSN L 0",
        "OST FM 1  FL 0  TM 1  TL 1",
        *(f"JSW {text}" for text in widths[1]),
    ]


def test_points_are_half_a_pixel_from_the_landmarks(bilateral):
    outlines = layer_contents(bilateral.film, SIZE, None)[0]
    points = np.concatenate(outlines.polylines[:2])
    assert np.array_equal(points, bilateral.film.knees[0].landmarks_px + 0.5)


def test_without_spacing_widths_are_shares_of_the_tibia(single):
    texts = texts_of(layer_contents(single.film, (1200, 913), 0.9))
    assert "JSW medial 4.8 +/- 0.3 % of tibia" in texts


def test_a_refused_knee_and_a_film_without_knees_state_the_code_of_the_reason(single):
    metal = Finding("implant", "Metal covers the joint.")
    knee = replace(single.film.knees[0], grades=None, joint_space=None, reason=metal)
    contents = layer_contents(replace(single.film, knees=(knee,)), (1200, 913), 0.9)
    assert [content.layer.name for content in contents] == ["OUTLINES", "GRADES"]
    assert texts_of(contents)[1:] == ["Right knee: not graded", "Reason: implant"]
    film = GradedRadiograph("a.dcm", reason=Finding("no_knee", "None."))
    assert texts_of(layer_contents(film, (100, 100), None))[1:] == ["No knee graded", "Reason: no_knee"]


@pytest.mark.parametrize("size", [(1179, 1700), (60, 60), (2000, 300), (300, 2000)])
def test_every_box_of_text_lies_on_the_film(bilateral, size):
    for content in layer_contents(bilateral.film, size, 0.9):
        for text, (left, top, right, bottom) in content.lines:
            assert 0 <= left < right <= size[1], text
            assert 0 <= top <= bottom <= size[0], text
