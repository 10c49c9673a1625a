"""Polarity of films: phantoms in bright surrounds, negatives, and right and wrong DICOM tags."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import ndimage

from kneegrade.anatomy import LandmarkDetector, UserLandmarks
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.polarity import search_both_polarities
from kneegrade.grader import detect_knees
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.imaging.photometry import film_in_surround
from kneegrade.imaging.radiograph import Polarity
from kneegrade.phantom import FilmOptions, render_film


@pytest.fixture(scope="module")
def detector():
    return LandmarkDetector()


@pytest.fixture(scope="module")
def film():
    """(H, W) in 0 … 255: a bilateral phantom film without tag."""
    return np.rint(render_film(90210, 0, FilmOptions("bilateral", longest_px=700)).pixels * 255)


def soft_collimation(film):
    padded = np.pad(film, 160, mode="edge")
    inside = np.zeros(padded.shape)
    inside[90:-90, 90:-90] = 1
    weight = ndimage.gaussian_filter(inside, 15)
    return weight * padded + (1 - weight) * 252


def light_box(film):
    canvas = np.pad(20 + film * 0.5, 200, constant_values=np.nan)
    turned = ndimage.rotate(canvas, 3, reshape=False, order=1, cval=np.nan)
    y, x = np.mgrid[-1 : 1 : turned.shape[0] * 1j, -1 : 1 : turned.shape[1] * 1j]
    return np.where(np.isnan(turned), 210 - 30 * (x**2 + y**2), turned)


def window(film, level):
    canvas = np.full((film.shape[0] + 120, 2 * film.shape[1] + 200), float(level))
    canvas[:40] = 255 - level
    canvas[90::50, 10:90] = 255 - level
    canvas[80 : 80 + film.shape[0], 400 : 400 + film.shape[1]] = film
    return canvas


def page(film):
    canvas = np.full((2 * film.shape[0], 2 * film.shape[1]), 250.0)
    canvas[60 : 60 + film.shape[0], film.shape[1] // 2 : film.shape[1] // 2 + film.shape[1]] = film
    canvas[film.shape[0] + 120 :: 24, 60:-60:3] = 30
    return canvas


def white_corners(film):
    return ndimage.rotate(film, 12, reshape=True, order=1, cval=255)


def two_on_a_light_box(film):
    return np.pad(np.concatenate([film, np.full((film.shape[0], 120), 235.0), 0.4 * film], axis=1), 90,
                  constant_values=235)  # fmt: skip


def slide(film):
    canvas = np.full((int(1.6 * film.shape[0]), int(2.2 * film.shape[1])), 255.0)
    canvas[20:60, 50:600] = 30
    canvas[140 : 140 + film.shape[0], 100 : 100 + film.shape[1]] = film
    for line in range(150, 500, 60):
        canvas[line : line + 20, 130 + film.shape[1] : -80 : 2] = 60
    return canvas


def white_stripe(film):
    return np.concatenate([film, np.full((film.shape[0], film.shape[1] // 3), 255.0)], axis=1)


SURROUNDS = {
    "slide": slide,
    "white stripe": white_stripe,
    "soft collimation": soft_collimation,
    "light box": light_box,
    "white window": lambda film: window(film, 244),
    "dark window": lambda film: window(film, 12),
    "page": page,
    "white corners": white_corners,
    "two films on a light box": two_on_a_light_box,
}


def inverted(radiograph):
    return radiograph.polarity.inverted


@pytest.mark.parametrize("name", SURROUNDS)
def test_a_film_in_a_surround_keeps_its_polarity_and_its_knees(detector, film, name):
    radiograph, knees, _ = detector.detect(read_radiograph(SURROUNDS[name](film)))
    assert not inverted(radiograph)
    assert len(knees) == 2
    assert min(knee.landmark_confidence for knee in knees) > 0.8
    assert "inverted_by_pixels" not in [warning.code for warning in radiograph.warnings]


@pytest.mark.parametrize("name", SURROUNDS)
def test_a_negative_in_a_surround_is_inverted_and_keeps_its_knees(detector, film, name):
    radiograph, knees, _ = detector.detect(read_radiograph(SURROUNDS[name](255 - film)))
    assert inverted(radiograph)
    assert len(knees) == 2
    assert [warning.code for warning in radiograph.warnings] == ["inverted_by_pixels"]


@pytest.mark.parametrize("tag", [None, "MONOCHROME1", "MONOCHROME2"])
def test_the_warning_says_why_a_film_in_a_bright_surround_was_not_inverted(detector, film, tag):
    radiograph = read_radiograph(light_box(film))
    assert inverted(radiograph)  # by the pixels alone
    radiograph = replace(radiograph, polarity=replace(radiograph.polarity, declared_by=tag))
    (warning,) = detector.detect(radiograph)[0].warnings
    assert warning.code == "polarity_kept"
    assert ("as it is stored" if tag is None else f"its file declares ({tag})") in warning.message


def test_a_wrong_tag_is_overruled_by_the_knee_and_named(detector, film):
    radiograph = read_radiograph(255 - film)
    radiograph = replace(radiograph, polarity=replace(radiograph.polarity, declared_by="MONOCHROME2"))
    decided, knees, _ = detector.detect(radiograph)
    assert len(knees) == 2
    assert inverted(decided)
    assert "declares MONOCHROME2" in decided.warnings[0].message


@pytest.mark.parametrize(("tag", "is_inverted"), [(None, True), ("MONOCHROME2", False)])
def test_without_a_knee_the_tag_decides_and_else_the_pixels(detector, tag, is_inverted):
    nothing = render_film(90210, 1, FilmOptions("none", longest_px=600)).pixels
    radiograph = read_radiograph(255 * (1 - np.pad(nothing, 40)))
    assert inverted(radiograph)
    radiograph = replace(radiograph, polarity=replace(radiograph.polarity, declared_by=tag))
    decided = detector.detect(radiograph)[0]
    assert inverted(decided) == is_inverted
    assert [warning.code for warning in decided.warnings] == ["polarity_undecided"]


def test_a_plain_film_is_searched_once(detector, film, monkeypatch):
    seen, search = [], detector.search
    monkeypatch.setattr(detector, "search", lambda pixels: seen.append(pixels) or search(pixels))
    radiograph = read_radiograph(film, pixel_spacing_mm=(0.4, 0.4))
    assert detector.detect(radiograph)[0] is radiograph
    assert len(seen) == 1


def test_polarity_is_settled_without_a_search_where_there_is_no_doubt(detector, film, monkeypatch):
    doubtful = read_radiograph(light_box(film))
    assert not inverted(detector.settle_polarity(doubtful))
    monkeypatch.setattr(detector, "search", None)
    plain = read_radiograph(film)
    assert detector.settle_polarity(plain) is plain


def test_a_film_has_one_warning_about_its_polarity_with_landmarks_of_the_user_too(detector, film, tmp_path):
    found = detect_knees("film.png", read_radiograph(light_box(film)), detector)
    write_pts(tmp_path / "film.pts", found.knees[0].landmarks_px)
    marked = detect_knees("film.png", read_radiograph(light_box(film)), detector, UserLandmarks(tmp_path))
    for each in (found, marked):
        assert [w.code for w in each.warnings if "polar" in w.code or "invert" in w.code] == ["polarity_kept"]
        assert not inverted(each.radiograph)
    assert np.corrcoef(found.knees[0].roi.ravel(), marked.knees[0].roi.ravel())[0, 1] > 0.99


@dataclass(frozen=True)
class Found:
    """A detection of a given confidence."""

    confidence: float

    def shifted(self, x, y):
        return self


@pytest.mark.parametrize(("ours", "theirs", "is_inverted"), [
    (0.9, 0.0, True), (0.3, 0.1, True), (0.0, 0.0, True),  # the pixels are confirmed, or nothing contradicts them
    (0.0, 0.3, True), (0.4, 0.6, True),  # not certain enough
    (0.0, 0.9, False), (0.4, 0.9, False),
])  # fmt: skip
def test_only_a_certain_knee_overrules_the_pixels(ours, theirs, is_inverted):
    pixels = np.full((40, 40), 0.25, dtype=np.float32)
    radiograph = Radiograph(pixels, polarity=Polarity(-1.5, inverted=True))
    found = search_both_polarities(radiograph, lambda seen: [Found(ours if seen is pixels else theirs)])
    assert inverted(found[0]) == is_inverted


def test_padding_stays_dark_in_the_other_polarity():
    padding = np.zeros((3, 4), dtype=bool)
    padding[0] = True
    radiograph = Radiograph(np.where(padding, 0, 0.25).astype(np.float32), padding=padding)
    np.testing.assert_array_equal(radiograph.in_other_polarity().pixels[:, 0], [0, 0.75, 0.75])


def test_the_film_in_a_surround_is_found(film):
    rows, columns = film_in_surround((page(film) / 255).astype(np.float32))
    assert abs(columns.start - film.shape[1] // 2) < 0.03 * film.shape[1]
    assert abs(rows.start - 60) < 0.03 * film.shape[0]
    whole = film_in_surround((film / 255).astype(np.float32))
    assert whole == (slice(0, film.shape[0]), slice(0, film.shape[1]))
    assert film_in_surround(np.ones((50, 60), dtype=np.float32)) == (slice(0, 50), slice(0, 60))
