"""Landmarks that the user provides: matching to films, units, mirrored exports, sides, plausibility."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.anatomy import UserLandmarks, knees_from_landmarks
from kneegrade.anatomy.coco_keypoints import CocoFilm, CocoKnee, to_coco, write_coco
from kneegrade.anatomy.landmark_files import write_pts
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.files import short_name
from kneegrade.imaging import Radiograph, stem_of

MM_PER_PX = 0.2
RIGHT = ShapeModel.load().mean({}) / MM_PER_PX + [400, 500]  # lateral on the left
LEFT = ShapeModel.load().mean({}) * [-1, 1] / MM_PER_PX + [1000, 510]
FILM = Radiograph(np.zeros((1000, 1400), dtype=np.float32), pixel_spacing_mm=(MM_PER_PX, MM_PER_PX))


def flipped(points):
    return points * [-1, 1] + [FILM.pixels.shape[1] - 1, 0]


def test_two_knees_of_one_pts_file_have_their_sides(tmp_path):
    write_pts(tmp_path / "film.pts", np.stack([LEFT, RIGHT]))  # in any order
    points = UserLandmarks(tmp_path).of("sub/film.dcm", FILM)
    knees, warnings = knees_from_landmarks(FILM, points, 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    assert warnings == ()
    np.testing.assert_allclose(knees[0].landmarks_px, RIGHT, atol=1e-3)
    assert knees[1].frame.mirrored


@pytest.mark.parametrize(("mirrored", "stored"), [
    ("both", (flipped(RIGHT), flipped(LEFT))), ("L", (RIGHT, flipped(LEFT))), ("R", (flipped(RIGHT), LEFT)),
])  # fmt: skip
def test_mirrored_exports_are_mirrored_back(tmp_path, mirrored, stored):
    write_pts(tmp_path / "film.pts", np.stack(stored))
    points = UserLandmarks(tmp_path / "film.pts", mirrored=mirrored).of("other.dcm", FILM)
    np.testing.assert_allclose(points, np.stack([RIGHT, LEFT]), atol=1e-3)


def test_a_single_mirrored_knee_needs_a_stated_side(tmp_path):
    write_pts(tmp_path / "film.pts", flipped(RIGHT))
    marked = UserLandmarks(tmp_path, mirrored="R")
    np.testing.assert_allclose(marked.of("film.png", replace(FILM, laterality="R"))[0], RIGHT, atol=1e-3)
    with pytest.raises(UsageError, match="state the side"):
        marked.of("film.png", FILM)


def test_bonefinders_second_file_holds_the_other_knee_on_the_flipped_film(tmp_path):
    write_pts(tmp_path / "001.pts", LEFT * MM_PER_PX)
    write_pts(tmp_path / "001_f.pts", flipped(RIGHT) * MM_PER_PX)
    points = UserLandmarks(tmp_path).of("001.dcm", FILM)
    knees, _ = knees_from_landmarks(FILM, points, 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    np.testing.assert_allclose(knees[0].landmarks_px, RIGHT, atol=2e-3)


def test_films_with_a_common_prefix_keep_their_own_landmarks(tmp_path):
    write_pts(tmp_path / "1.2.3.1.pts", RIGHT)
    write_pts(tmp_path / "1.2.3.2.pts", LEFT)
    np.testing.assert_allclose(UserLandmarks(tmp_path).of("1.2.3.2", FILM)[0], LEFT, atol=1e-3)


@pytest.mark.parametrize("change", [
    lambda p: p[::-1], lambda p: np.concatenate([p[37:], p[:37]]), lambda p: p * 0 + 300,
    lambda p: p + np.random.default_rng(0).normal(0, 120, p.shape),
])  # fmt: skip
def test_points_that_are_not_a_knee_are_refused(tmp_path, change):
    write_pts(tmp_path / "film.pts", change(RIGHT))
    with pytest.raises(UnreadableFileError, match="do not lie on a knee"):
        UserLandmarks(tmp_path, unit="px").of("film.dcm", FILM)


def test_landmarks_outside_the_film_are_refused(tmp_path):
    write_pts(tmp_path / "film.pts", RIGHT + 5000)
    with pytest.raises(UnreadableFileError, match="do not lie on a knee"):
        UserLandmarks(tmp_path).of("film.dcm", FILM)


def test_missing_landmarks_are_a_usage_error(tmp_path):
    write_pts(tmp_path / "film.pts", RIGHT)
    with pytest.raises(UsageError, match=r"other\.pts"):
        UserLandmarks(tmp_path).of("other.dcm", FILM)
    with pytest.raises(UsageError, match="no landmarks at"):
        UserLandmarks(tmp_path / "nowhere")


NAMES = ["patA/film.dcm", "patB/film.dcm"]


def test_films_of_one_name_have_the_landmarks_of_their_folders(tmp_path):
    for folder, points in (("patA", RIGHT), ("patB", LEFT)):
        (tmp_path / folder).mkdir()
        write_pts(tmp_path / folder / "film.pts", points)
    marked = UserLandmarks(tmp_path).among(NAMES)
    np.testing.assert_allclose(marked.of(NAMES[0], FILM)[0], RIGHT, atol=1e-3)
    np.testing.assert_allclose(marked.of(NAMES[1], FILM)[0], LEFT, atol=1e-3)


@pytest.mark.parametrize("write", [
    lambda folder: write_pts(folder / "film.pts", RIGHT),
    lambda folder: write_coco(folder / "all.json", [film("film.dcm")]),
    lambda folder: write_coco(folder / "all.json", [film("patA/film.dcm"), film("film.dcm")]),
])  # fmt: skip
def test_landmarks_that_fit_two_films_of_one_name_are_refused(tmp_path, write):
    write(tmp_path)
    marked = UserLandmarks(next(tmp_path.glob("*.json"), tmp_path))
    assert len(marked.of(NAMES[1], FILM)) > 0
    with pytest.raises(UsageError, match="2 films have this name") as error:
        marked.among(NAMES).of(NAMES[1], FILM)
    assert error.value.code == "landmarks_ambiguous"
    assert "here patB/film." in error.value.message


def test_a_dicom_and_a_png_of_one_name_do_not_share_landmarks(tmp_path):
    write_pts(tmp_path / "film.pts", RIGHT)
    marked = UserLandmarks(tmp_path).among(["film.dcm", "film.png"])
    with pytest.raises(UsageError, match="2 films have this name"):
        marked.of("film.png", FILM)
    write_pts(tmp_path / "film.png.pts", LEFT)
    np.testing.assert_allclose(marked.of("film.png", FILM)[0], LEFT, atol=1e-3)


def test_landmarks_in_a_subfolder_are_named_when_the_film_has_none(tmp_path):
    (tmp_path / "pat[A]").mkdir()
    write_pts(tmp_path / "pat[A]" / "film.pts", RIGHT)
    with pytest.raises(UsageError, match=r"Its subfolder pat\[A\] has such a file"):
        UserLandmarks(tmp_path).of("film.dcm", FILM)


def test_landmarks_of_a_name_that_is_too_long_for_a_file_are_found(tmp_path):
    name = "é" * 140 + ".dcm"
    write_pts(tmp_path / f"{short_name(stem_of(name), len('.landmarks.png'))}.pts", RIGHT)
    np.testing.assert_allclose(UserLandmarks(tmp_path).of(name, FILM)[0], RIGHT, atol=1e-3)
    with pytest.raises(UsageError, match="has no file"):
        UserLandmarks(tmp_path).of("y" * 300 + ".dcm", FILM)


def test_a_coco_file_with_two_images_of_one_name_is_refused(tmp_path):
    write_coco(tmp_path / "all.json", [film("film.png"), film("film.png")])
    with pytest.raises(UnreadableFileError, match="several images of one file_name"):
        UserLandmarks(tmp_path / "all.json").of("film.png", FILM)


def test_knees_of_a_film_that_is_upside_down_keep_their_sides():
    last = np.array(FILM.pixels.shape[::-1]) - 1.0
    knees, warnings = knees_from_landmarks(FILM, np.stack([last - LEFT, last - RIGHT]), 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    assert warnings == ()


def film(name) -> CocoFilm:
    shown = np.ones(74, dtype=bool)
    return CocoFilm(name, (1000, 1400), (CocoKnee("R", RIGHT, shown, 0.9), CocoKnee("L", LEFT, shown, 0.8)))


def test_coco_landmarks_are_matched_by_the_name_of_the_film(tmp_path):
    write_coco(tmp_path / "all.json", [film("one/film.png")])
    assert len(UserLandmarks(tmp_path / "all.json").of("one/film.png", FILM)) == 2
    with pytest.raises(UsageError, match="no landmarks"):
        UserLandmarks(tmp_path / "all.json").of("other.png", FILM)


def edit(path, text, later_ns):
    """Write `text` to a file and set its modification time later by `later_ns`."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later_ns))


def test_names_and_points_follow_an_edited_coco_file(tmp_path):
    path = tmp_path / "a.json"
    write_coco(path, [film("one/a.png")])
    marked = UserLandmarks(path)
    assert marked.first(["one/a.png", "one/b.png"]) == "one/a.png"
    x = f"{RIGHT[0, 0]:.2f}"
    edit(path, path.read_text().replace(f'"keypoints": [{x}', f'"keypoints": [{float(x) + 1:.2f}'), 1)  # same size
    assert marked.of("one/a.png", FILM)[0][0, 0] == pytest.approx(RIGHT[0, 0] + 1, abs=0.006)
    edit(path, json.dumps(to_coco([film("one/longer.png")])), 0)  # same time
    assert marked.first(["one/a.png"]) is None
    assert marked.first(["longer.png", "one/longer.png"]) == "one/longer.png"
    edit(path, path.read_text().replace("longer", "linger"), 1)
    assert marked.first(["one/longer.png"]) is None
    assert marked.first(["one/linger.png"]) == "one/linger.png"
