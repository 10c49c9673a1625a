"""The picture of a Secondary Capture. That it is legible was checked by eye; here: what is on it, and where."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from kneegrade.clinical.job import RESEARCH_USE
from kneegrade.clinical.result_picture import CALIPER, LONGEST_PX, OUTLINE, SMALL_PX, result_picture
from kneegrade.clinical.result_text import width_texts
from kneegrade.results import Finding, GradedRadiograph

METAL = Finding("implant", "Metal covers a part of the joint. The knee was not graded; grade it by eye.")


@pytest.fixture
def shown(monkeypatch):
    """The texts that are drawn, with their positions."""
    texts = []
    draw = ImageDraw.ImageDraw.text

    def text(self, xy, text, *arguments, **settings):
        texts.append((text, xy))
        return draw(self, xy, text, *arguments, **settings)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def is_near(pixels, point, colour):
    """Whether a pixel at most 2 px from the point has the colour."""
    x, y = np.rint(point).astype(int)
    return (pixels[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] == colour).all(axis=2).any()


def test_text_is_at_least_twelve_pixels_high_when_shown_with_1024_pixels():
    assert SMALL_PX * 1024 / LONGEST_PX >= 12


@pytest.mark.parametrize("name", ["bilateral", "single"])
def test_outlines_and_calipers_lie_on_the_landmarks(name, request):
    graded = request.getfixturevalue(name)
    picture = result_picture(graded.film, graded.radiograph.pixels, set_level=0.9)
    assert max(picture.pixels.shape) <= LONGEST_PX
    for knee in graded.film.knees:
        points = (knee.landmarks_px + 0.5) * picture.scale - 0.5
        hits = [is_near(picture.pixels, point, OUTLINE) or is_near(picture.pixels, point, CALIPER) for point in points]
        assert np.mean(hits) == 1


def test_nothing_but_lines_covers_the_film(single):
    pixels = single.radiograph.pixels[:800, :700]  # small enough to be shown pixel by pixel
    picture = result_picture(single.film, pixels, set_level=0.9)
    assert picture.scale == 1
    shown = picture.pixels[:800, :700]
    assert (shown == np.rint(255 * pixels).astype(np.uint8)[:, :, None]).all(axis=2).mean() > 0.97


def test_every_probability_every_grade_and_the_research_line_are_shown(bilateral, shown):
    result_picture(bilateral.film, bilateral.radiograph.pixels, set_level=0.9)
    texts = [text for text, _ in shown]
    assert texts[-3:-1] == ["Film: Spacing at detector, magnification not corrected", RESEARCH_USE]
    for title in ("Right knee: KL 1", "Left knee: KL 2", "to be decided by a reader"):
        assert title in texts
    percents = [text for text in texts if text == "<1" or text.isdigit()]
    assert len(percents) == 2 * (5 + 29)  # headings 0 to 4, and 29 classes, for each knee
    assert f"JSW {', '.join(width_texts(bilateral.film.knees[0].joint_space))}" in texts


def test_compartments_are_named_where_they_are(bilateral, shown):
    result_picture(bilateral.film, bilateral.radiograph.pixels, set_level=0.9)
    named = [text for text, _ in sorted(shown, key=lambda item: item[1][0]) if text in ("medial", "lateral")]
    assert named == ["lateral", "medial", "medial", "lateral"]


def test_a_table_stands_below_its_knee(bilateral, shown):
    result_picture(bilateral.film, bilateral.radiograph.pixels, set_level=0.9)
    left = {text.split(":")[0]: xy[0] for text, xy in shown if "KL " in text}
    assert left["Right knee"] < LONGEST_PX / 2 < left["Left knee"]


def test_a_refused_knee_shows_its_reason(bilateral, shown):
    right, left = bilateral.film.knees
    film = replace(bilateral.film, knees=(replace(right, grades=None, joint_space=None, reason=METAL), left))
    result_picture(film, bilateral.radiograph.pixels, set_level=0.9)
    texts = [text for text, _ in shown]
    assert "Right knee: not graded" in texts
    assert "Left knee: KL 2" in texts
    assert METAL.message in " ".join(texts)
    assert texts.count("lateral") == 1


def test_a_film_without_knees_shows_its_reason(shown):
    reason = Finding("no_knee", "No knee in a frontal view was detected on this film.")
    picture = result_picture(GradedRadiograph("a.dcm", reason=reason), np.zeros((300, 200), np.float32), set_level=None)
    assert min(picture.pixels.shape[:2]) >= 200
    assert reason.message in " ".join(text for text, _ in shown)


@pytest.mark.parametrize("shape", [(40, 3000), (3000, 40), (4000, 4000), (60, 60)])
def test_any_film_fits(bilateral, shape):
    picture = result_picture(bilateral.film, np.zeros(shape, np.float32), set_level=0.9)
    assert max(picture.pixels.shape) <= LONGEST_PX
    assert picture.pixels.nbytes < 7.5e6
