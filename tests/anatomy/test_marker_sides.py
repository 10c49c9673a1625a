"""Side markers as a witness: what the shipped detector and reader say about films with drawn letters."""

from dataclasses import replace

import numpy as np
import pytest

from kneegrade.anatomy import LandmarkDetector, UserHints
from kneegrade.grader import detect_film, detect_knees
from kneegrade.imaging import Source, read_radiograph
from kneegrade.phantom.film import FilmOptions, compose_film, render_scene
from kneegrade.phantom.film_content import draw_markers
from kneegrade.phantom.film_dicom import write_film

CODES = {"mirrored_film", "marker_contradicts_side", "mirrored_marker"}


@pytest.fixture(scope="module")
def detector():
    return LandmarkDetector()


@pytest.fixture(scope="module")
def scene():
    scene = compose_film(4242, 1, FilmOptions("bilateral", longest_px=900))
    overlay = replace(scene.overlay, letters=("", ""), text="", ruler="", ball_mm=0.0, shutter_mm=(0.0,) * 4)
    return replace(scene, overlay=replace(overlay, height_mm=12.0, box="plate", places=((0.06, 0.1), (0.94, 0.1))))


@pytest.fixture(scope="module")
def bare_film(scene):
    return render_scene(scene).pixels


@pytest.fixture
def marked(scene, bare_film):
    """The bilateral film with these letters at its left and its right border."""

    def draw(left, right, places=((0.06, 0.1), (0.94, 0.1))):
        return draw_markers(bare_film, scene.knee_mm, replace(scene.overlay, letters=(left, right), places=places))

    return draw


def mirrored(pixels):
    return np.ascontiguousarray(pixels[:, ::-1])


def result(detector, pixels, **stated):
    """Sides, side confidences and codes of the warnings from markers."""
    film = detect_knees("film", read_radiograph(pixels, **stated), detector)
    codes = [warning.code for warning in film.warnings if warning.code in CODES]
    return [knee.side for knee in film.knees], [knee.side_confidence for knee in film.knees], codes


@pytest.mark.parametrize("letters", [("", ""), ("R", "L"), ("R", ""), ("", "L")])
def test_a_film_with_the_right_markers_or_none_has_no_warning(detector, marked, letters):
    sides, confidences, codes = result(detector, marked(*letters))
    assert (sides, codes) == (["R", "L"], [])
    assert min(confidences) > 0.9


@pytest.mark.parametrize("letters", [("R", "L"), ("R", ""), ("", "L")])
def test_a_mirrored_film_keeps_its_sides_but_has_a_warning(detector, marked, letters):
    sides, confidences, codes = result(detector, mirrored(marked(*letters)))
    assert (sides, confidences, codes) == (["R", "L"], [0.5, 0.5], ["mirrored_film"])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_film_that_lies_on_its_side_is_judged_the_same(detector, marked, turns):
    film = marked("R", "L")
    assert result(detector, np.rot90(film, turns).copy())[2] == []
    assert result(detector, np.rot90(mirrored(film), turns).copy())[2] == ["mirrored_film"]


def test_exchanged_letters_contradict_the_sides(detector, marked):
    sides, confidences, codes = result(detector, marked("L", "R"))
    assert (sides, confidences, codes) == (["R", "L"], [0.5, 0.5], ["marker_contradicts_side"])


def test_two_letters_in_the_right_order_agree_even_beside_the_same_knee(detector, marked):
    assert result(detector, marked("R", "L", places=((0.06, 0.1), (0.3, 0.06))))[2] == []


def test_a_letter_between_the_knees_contradicts_nothing(detector, marked):
    assert result(detector, marked("L", "", places=((0.46, 0.06), (0, 0))))[2] == []


def test_a_mirrored_letter_on_its_own_side_may_have_lain_face_down(detector, marked):
    film = mirrored(marked("", "R"))  # as if the letter R had lain face down beside the right knee
    assert result(detector, film)[2] == ["mirrored_marker"]


@pytest.fixture(scope="module")
def single_knee():
    """A right knee without letters, and a function that draws one."""
    options = FilmOptions("single_right", longest_px=900)
    scene = compose_film(4242, 3, options)
    overlay = replace(scene.overlay, letters=("",), text="", ruler="", ball_mm=0.0, shutter_mm=(0.0,) * 4)
    film = render_scene(replace(scene, overlay=overlay))

    def draw(letter):
        shown = replace(overlay, letters=(letter,), places=((0.1, 0.07),), height_mm=12.0, box="plate")
        return replace(film, pixels=draw_markers(film.pixels, scene.knee_mm, shown))

    return draw


def graded_file(detector, film, path):
    write_film(path, film)
    return detect_film(Source(path.name, path), detector, UserHints())


@pytest.mark.parametrize(("letter", "codes"), [("L", ["marker_contradicts_side"]), ("R", []), ("", [])])
def test_the_letter_against_the_laterality_tag_of_a_single_knee(detector, single_knee, tmp_path, letter, codes):
    film = graded_file(detector, single_knee(letter), tmp_path / "film.dcm")
    assert film.radiograph.laterality == "R"
    assert [knee.side for knee in film.knees] == ["R"]
    assert [warning.code for warning in film.warnings if warning.code in CODES] == codes


def test_the_warning_states_what_was_read_and_what_was_expected(detector, single_knee, tmp_path):
    film = graded_file(detector, single_knee("L"), tmp_path / "film.dcm")
    (message,) = [warning.message for warning in film.warnings if warning.code in CODES]
    assert message.startswith("The side marker L was read, but according to the stated laterality this is a right knee")


def test_a_mirrored_film_of_a_single_knee_has_a_warning(detector, single_knee):
    sides, _, codes = result(detector, mirrored(single_knee("R").pixels))
    assert (sides, codes) == (["L"], ["mirrored_film"])


def test_a_tight_crop_is_not_read(detector, single_knee, monkeypatch):
    film = single_knee("R").pixels
    (knee,) = detect_knees("film", read_radiograph(film), detector).knees
    x, y = knee.landmarks_px.mean(0)
    half = 0.7 * np.ptp(knee.landmarks_px[37:, 0])
    rows, columns = slice(max(0, int(y - half)), int(y + half)), slice(max(0, int(x - half)), int(x + half))
    monkeypatch.setattr(detector.marker_reader, "read", lambda *_: pytest.fail("the crop was read"))
    assert len(detect_knees("crop", read_radiograph(film[rows, columns].copy()), detector).knees) == 1
