"""KNEEL's CSV, COCO keypoints, and a user's own landmarks."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from kneegrade.anatomy import UserLandmarks, knees_from_landmarks
from kneegrade.anatomy.landmark_files import (
    CocoFilm,
    CocoKnee,
    kneel_row,
    read_coco,
    read_kneel_csv,
    read_pts,
    to_coco,
    write_coco,
    write_kneel_csv,
    write_pts,
)
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UnreadableFileError, UsageError
from kneegrade.imaging import Radiograph

MM_PER_PX = 0.2
RIGHT = ShapeModel.load().mean({}) / MM_PER_PX + [400, 500]  # lateral on the left
LEFT = ShapeModel.load().mean({}) * [-1, 1] / MM_PER_PX + [1000, 510]
FILM = Radiograph(np.zeros((1000, 1400), dtype=np.float32), pixel_spacing_mm=(MM_PER_PX, MM_PER_PX))


def test_kneel_csv_there_and_back(tmp_path):
    write_kneel_csv(tmp_path / "a.csv", [kneel_row("7", "R", RIGHT), kneel_row("7", "L", LEFT)])
    first, second = read_kneel_csv(tmp_path / "a.csv")
    assert (first.subject_id, first.side, second.side) == ("7", "R", "L")
    np.testing.assert_allclose(first.points[4], RIGHT[55], atol=0.51)  # T4, between the spines; whole pixels
    np.testing.assert_allclose(second.points[[0, 8, 9, 15]], LEFT[[47, 63, 12, 24]], atol=0.51)
    row = next(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    box = [int(v) for v in row["bbox"].split(",")]
    assert box[0] < RIGHT[55, 0] < box[2]
    assert abs((box[2] - box[0]) * MM_PER_PX - 140) < 12  # KNEEL's 140 mm


@pytest.mark.parametrize("rows", [
    "a,b\n1,2\n", "subject_id,side,tibia,femur\n1,R,\"1,2\",\"3,4\"\n",
    "subject_id,side,tibia,femur\n1,R,x,y\n", "subject_id,side,tibia,femur\n1,R\n",
])  # fmt: skip
def test_a_wrong_kneel_csv_is_one_sentence(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    with pytest.raises(UnreadableFileError, match=r"a\.csv"):
        read_kneel_csv(tmp_path / "a.csv")


def film(name="a.png") -> CocoFilm:
    shown = np.ones(74, dtype=bool)
    shown[[0, 36]] = False
    return CocoFilm(name, (1000, 1400), (CocoKnee("R", RIGHT, shown, 0.9), CocoKnee("L", LEFT, shown, 0.8)))


def test_coco_there_and_back(tmp_path):
    write_coco(tmp_path / "a.json", [film(), CocoFilm("empty.png", (10, 20), ())])
    films = read_coco(tmp_path / "a.json")
    knee = films["a.png"].knees[1]
    assert (knee.side, knee.score, films["empty.png"].knees) == ("L", 0.8, ())
    np.testing.assert_allclose(knee.landmarks_px, LEFT, atol=0.006)
    assert np.flatnonzero(~knee.shown).tolist() == [0, 36]


def edited(path, text, later_ns):
    """Write `text` to the file, which is then younger by so many nanoseconds."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later_ns))


def test_an_edited_coco_file_is_read_again(tmp_path):
    path = tmp_path / "a.json"
    write_coco(path, [film("one/a.png")])
    marked = UserLandmarks(path)
    assert marked.first(["one/a.png", "one/b.png"]) == "one/a.png"
    assert read_coco(path) is read_coco(path)
    x = f"{RIGHT[0, 0]:.2f}"
    edited(path, path.read_text().replace(f'"keypoints": [{x}', f'"keypoints": [{float(x) + 1:.2f}'), 1)  # same size
    assert read_coco(path)["one/a.png"].knees[0].landmarks_px[0, 0] == pytest.approx(RIGHT[0, 0] + 1, abs=0.006)
    assert marked.of("one/a.png", FILM)[0][0, 0] == pytest.approx(RIGHT[0, 0] + 1, abs=0.006)
    edited(path, json.dumps(to_coco([film("one/longer.png")])), 0)  # same time
    assert list(read_coco(path)) == ["one/longer.png"]
    assert marked.first(["one/a.png"]) is None
    assert marked.first(["longer.png", "one/longer.png"]) == "one/longer.png"
    edited(path, path.read_text().replace("longer", "linger"), 1)
    assert marked.first(["one/longer.png"]) is None
    assert marked.first(["one/linger.png"]) == "one/linger.png"


def test_coco_has_what_its_tools_ask_for():
    data = to_coco([film()])
    first = data["annotations"][0]
    category = data["categories"][0]
    assert len(category["keypoints"]) == 74 == first["num_keypoints"]
    assert len(first["keypoints"]) == 3 * 74
    x, y, w, h = first["bbox"]
    assert first["area"] == pytest.approx(w * h, rel=1e-3)
    assert x == pytest.approx(RIGHT[:, 0].min(), abs=0.01)
    assert y + h == pytest.approx(RIGHT[:, 1].max(), abs=0.02)
    assert {min(pair) for pair in category["skeleton"]} == {*range(1, 37), *range(38, 74)}
    assert {a["image_id"] for a in data["annotations"]} == {1}


@pytest.mark.parametrize(
    "change",
    [
        "{",
        "[]",
        json.dumps({"images": [], "annotations": [{}]}),
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}],
                "annotations": [{"image_id": 1, "keypoints": [5, 5, 0] * 74}],
            }
        ),
    ],
)
def test_what_is_not_coco_is_one_sentence(tmp_path, change):
    (tmp_path / "a.json").write_text(change)
    with pytest.raises(UnreadableFileError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")


def test_the_unit_of_pts_is_told_from_the_tibia(tmp_path):
    write_pts(tmp_path / "px.pts", RIGHT)
    write_pts(tmp_path / "mm.pts", RIGHT * MM_PER_PX)
    for name in ("px.pts", "mm.pts"):
        got = read_pts(tmp_path / name, unit="auto", pixel_spacing_mm=(MM_PER_PX, MM_PER_PX))[0]
        np.testing.assert_allclose(got, RIGHT, atol=1e-3)
    with pytest.raises(UnreadableFileError, match="spacing"):
        read_pts(tmp_path / "mm.pts", unit="auto")
    with pytest.raises(UnreadableFileError, match="say which"):
        read_pts(tmp_path / "mm.pts", unit="auto", pixel_spacing_mm=(0.9, 0.9))


def test_two_marked_knees_have_their_sides(tmp_path):
    write_pts(tmp_path / "film.pts", np.stack([LEFT, RIGHT]))  # any order
    points = UserLandmarks(tmp_path).of("sub/film.dcm", FILM)
    knees, warnings = knees_from_landmarks(FILM, points, 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    assert warnings == ()
    np.testing.assert_allclose(knees[0].landmarks_px, RIGHT, atol=1e-3)
    assert knees[1].frame.mirrored


def flipped(points):
    return points * [-1, 1] + [FILM.pixels.shape[1] - 1, 0]


@pytest.mark.parametrize(("mirrored", "stored"), [
    ("both", (flipped(RIGHT), flipped(LEFT))), ("L", (RIGHT, flipped(LEFT))), ("R", (flipped(RIGHT), LEFT)),
])  # fmt: skip
def test_mirrored_exports_are_turned_back(tmp_path, mirrored, stored):
    write_pts(tmp_path / "film.pts", np.stack(stored))
    points = UserLandmarks(tmp_path / "film.pts", mirrored=mirrored).of("other.dcm", FILM)
    np.testing.assert_allclose(points, np.stack([RIGHT, LEFT]), atol=1e-3)


def test_a_single_mirrored_knee_needs_its_side(tmp_path):
    write_pts(tmp_path / "film.pts", flipped(RIGHT))
    marked = UserLandmarks(tmp_path, mirrored="R")
    np.testing.assert_allclose(marked.of("film.png", replace(FILM, laterality="R"))[0], RIGHT, atol=1e-3)
    with pytest.raises(UsageError, match="side"):
        marked.of("film.png", FILM)


def test_the_other_knee_on_the_flipped_film(tmp_path):
    """BoneFinder's two files of a bilateral film: one as it is, one of the flipped film."""
    write_pts(tmp_path / "001.pts", LEFT * MM_PER_PX)
    write_pts(tmp_path / "001_f.pts", flipped(RIGHT) * MM_PER_PX)
    points = UserLandmarks(tmp_path).of("001.dcm", FILM)
    knees, _ = knees_from_landmarks(FILM, points, 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    np.testing.assert_allclose(knees[0].landmarks_px, RIGHT, atol=2e-3)


def test_films_whose_names_share_a_beginning_keep_their_points(tmp_path):
    write_pts(tmp_path / "1.2.3.1.pts", RIGHT)
    write_pts(tmp_path / "1.2.3.2.pts", LEFT)
    np.testing.assert_allclose(UserLandmarks(tmp_path).of("1.2.3.2", FILM)[0], LEFT, atol=1e-3)


@pytest.mark.parametrize("change", [
    lambda p: p[::-1], lambda p: np.concatenate([p[37:], p[:37]]), lambda p: p * 0 + 300,
    lambda p: p + np.random.default_rng(0).normal(0, 120, p.shape),
])  # fmt: skip
def test_what_is_no_knee_is_refused(tmp_path, change):
    write_pts(tmp_path / "film.pts", change(RIGHT))
    with pytest.raises(UnreadableFileError, match="do not lie on a knee"):
        UserLandmarks(tmp_path, unit="px").of("film.dcm", FILM)


def test_knees_of_a_film_upside_down_keep_their_sides():
    last = np.array(FILM.pixels.shape[::-1]) - 1.0
    knees, warnings = knees_from_landmarks(FILM, np.stack([last - LEFT, last - RIGHT]), 64)
    assert [knee.side for knee in knees] == ["R", "L"]
    assert warnings == ()


def test_coco_landmarks_of_a_film(tmp_path):
    write_coco(tmp_path / "all.json", [film("one/film.png")])
    assert len(UserLandmarks(tmp_path / "all.json").of("one/film.png", FILM)) == 2
    with pytest.raises(UsageError, match="no landmarks"):
        UserLandmarks(tmp_path / "all.json").of("other.png", FILM)


def test_landmarks_that_do_not_lie_on_the_film_are_refused(tmp_path):
    write_pts(tmp_path / "film.pts", RIGHT + 5000)
    with pytest.raises(UnreadableFileError, match="do not lie on a knee"):
        UserLandmarks(tmp_path).of("film.dcm", FILM)
    with pytest.raises(UsageError, match=r"other\.pts"):
        UserLandmarks(tmp_path).of("other.dcm", FILM)
    with pytest.raises(UsageError, match="no landmarks at"):
        UserLandmarks(tmp_path / "nowhere")
