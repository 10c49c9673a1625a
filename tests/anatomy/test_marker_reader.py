"""The shipped reader of side markers, on letters that phantom films draw (in a font that it was not trained on)."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kneegrade.anatomy import MarkerReader
from kneegrade.errors import WeightsError
from kneegrade.imaging import read_radiograph
from kneegrade.phantom.film import FilmOptions, compose_film, render_scene
from kneegrade.weights import shipped_path


@pytest.fixture(scope="module")
def reader():
    return MarkerReader()


@pytest.fixture(scope="module")
def bare_film():
    """(H, W) pixels of a bilateral phantom film without letters and text."""
    scene = compose_film(4242, 1, FilmOptions("bilateral", longest_px=900))
    overlay = replace(scene.overlay, letters=("", ""), text="", ruler="", ball_mm=0.0, shutter_mm=(0.0,) * 4)
    return render_scene(replace(scene, overlay=overlay)).pixels


def with_text(pixels, text, centre=(60, 60), height=34):
    canvas = Image.fromarray((pixels * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    x, y = centre
    draw.rectangle((x - 0.8 * height, y - 0.8 * height, x + 0.8 * height, y + 0.8 * height), fill=230)
    draw.text(centre, text, fill=20, font=ImageFont.load_default(height), anchor="mm")
    return np.asarray(canvas, dtype=np.float32) / 255


def letters(markers):
    return [(marker.letter, marker.mirrored) for marker in markers]


def test_a_film_without_letters_has_no_markers(reader, bare_film):
    assert reader.read(bare_film) == ()


@pytest.mark.parametrize("letter", ["R", "L"])
def test_a_letter_is_read_with_its_place_and_direction(reader, bare_film, letter):
    (marker,) = reader.read(with_text(bare_film, letter))
    assert (marker.letter, marker.mirrored) == (letter, False)
    assert (marker.x, marker.y) == pytest.approx((60, 60), abs=6)
    assert marker.height == pytest.approx(0.72 * 34, rel=0.3)


@pytest.mark.parametrize("letter", ["R", "L"])
def test_the_mirrored_film_has_the_mirrored_letter(reader, bare_film, letter):
    film = np.ascontiguousarray(with_text(bare_film, letter)[:, ::-1])
    assert letters(reader.read(film)) == [(letter, True)]


@pytest.mark.parametrize("letter", ["R", "L"])
def test_a_negative_gives_the_same_letter_once_it_is_read_as_a_radiograph(reader, bare_film, letter):
    film = read_radiograph(1 - with_text(bare_film, letter)).pixels
    assert letters(reader.read(film)) == [(letter, False)]


@pytest.mark.parametrize("letter", list("PKBEFT7ID"))
def test_other_letters_are_not_markers(reader, bare_film, letter):
    assert reader.read(with_text(bare_film, letter)) == ()


def test_a_film_of_a_few_pixels_has_no_markers(reader):
    assert reader.read(np.zeros((5, 3), dtype=np.float32)) == ()


def test_weights_of_a_detector_are_refused():
    with pytest.raises(WeightsError, match="contains detector weights; expected markers weights"):
        MarkerReader(shipped_path("detector"))
