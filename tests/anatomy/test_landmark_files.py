"""BoneFinder's .pts, KNEEL's CSV and COCO keypoints."""

import csv
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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
from kneegrade.errors import UnreadableFileError

POINTS = np.arange(148, dtype=float).reshape(74, 2) / 4
MM_PER_PX = 0.2
RIGHT = ShapeModel.load().mean({}) / MM_PER_PX + [400, 500]  # lateral on the left
LEFT = ShapeModel.load().mean({}) * [-1, 1] / MM_PER_PX + [1000, 510]


def pts_text(points, count=None) -> str:
    lines = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points: {count or len(points)}\n{{\n{lines}\n}}"


def test_pts_round_trip(tmp_path):
    write_pts(tmp_path / "a.pts", POINTS)
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts")[0], POINTS)


def test_pts_without_final_newline_and_with_windows_line_ends(tmp_path):
    (tmp_path / "a.pts").write_text(pts_text(POINTS).replace("\n", "\r\n"), newline="")
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts")[0], POINTS)


def test_pts_with_two_knees(tmp_path):
    (tmp_path / "a.pts").write_text(pts_text(np.concatenate([POINTS, POINTS + 100])))
    both = read_pts(tmp_path / "a.pts")
    assert both.shape == (2, 74, 2)
    np.testing.assert_allclose(both[1] - both[0], 100)


def test_pts_in_millimetres_uses_the_column_spacing_for_x(tmp_path):
    (tmp_path / "a.pts").write_text(pts_text(POINTS))
    got = read_pts(tmp_path / "a.pts", unit="mm", pixel_spacing_mm=(0.5, 0.25))[0]
    np.testing.assert_allclose(got, POINTS / [0.25, 0.5])
    with pytest.raises(UnreadableFileError, match="no pixel spacing"):
        read_pts(tmp_path / "a.pts", unit="mm")


def test_the_unit_of_pts_follows_from_the_width_of_the_tibia(tmp_path):
    write_pts(tmp_path / "px.pts", RIGHT)
    write_pts(tmp_path / "mm.pts", RIGHT * MM_PER_PX)
    for name in ("px.pts", "mm.pts"):
        got = read_pts(tmp_path / name, unit="auto", pixel_spacing_mm=(MM_PER_PX, MM_PER_PX))[0]
        np.testing.assert_allclose(got, RIGHT, atol=1e-3)
    with pytest.raises(UnreadableFileError, match="no pixel spacing"):
        read_pts(tmp_path / "mm.pts", unit="auto")
    with pytest.raises(UnreadableFileError, match="ambiguous"):
        read_pts(tmp_path / "mm.pts", unit="auto", pixel_spacing_mm=(0.9, 0.9))


@pytest.mark.parametrize(
    "content",
    ["", "version: 2\nn_points: 74\n{\n}", pts_text(POINTS[:70]), pts_text(POINTS, 148),
     pts_text(POINTS).replace("0.0 0.25", "a b"),
     pts_text(POINTS).replace("0.0 0.25", "nan 1"), pts_text(POINTS).replace("0.0 0.25", "1 2 3")],
)  # fmt: skip
def test_the_error_of_an_invalid_pts_file_names_the_file(tmp_path, content):
    (tmp_path / "a.pts").write_text(content)
    with pytest.raises(UnreadableFileError, match=r"a\.pts"):
        read_pts(tmp_path / "a.pts")


def test_kneel_csv_round_trip(tmp_path):
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
def test_the_error_of_an_invalid_kneel_csv_names_the_file(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    with pytest.raises(UnreadableFileError, match=r"a\.csv"):
        read_kneel_csv(tmp_path / "a.csv")


def film(name="a.png") -> CocoFilm:
    shown = np.ones(74, dtype=bool)
    shown[[0, 36]] = False
    return CocoFilm(name, (1000, 1400), (CocoKnee("R", RIGHT, shown, 0.9), CocoKnee("L", LEFT, shown, 0.8)))


def test_coco_round_trip(tmp_path):
    write_coco(tmp_path / "a.json", [film(), CocoFilm("empty.png", (10, 20), ())])
    films = read_coco(tmp_path / "a.json")
    knee = films["a.png"].knees[1]
    assert (knee.side, knee.score, films["empty.png"].knees) == ("L", 0.8, ())
    np.testing.assert_allclose(knee.landmarks_px, LEFT, atol=0.006)
    assert np.flatnonzero(~knee.shown).tolist() == [0, 36]


def edit(path, text, later_ns):
    """Write `text` to a file and set its modification time later by `later_ns`."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later_ns))


def test_an_unchanged_coco_file_is_cached_and_an_edited_one_is_read_again(tmp_path):
    path = tmp_path / "a.json"
    write_coco(path, [film("one/a.png")])
    assert read_coco(path) is read_coco(path)
    x = f"{RIGHT[0, 0]:.2f}"
    edit(path, path.read_text().replace(f'"keypoints": [{x}', f'"keypoints": [{float(x) + 1:.2f}'), 1)  # same size
    assert read_coco(path)["one/a.png"].knees[0].landmarks_px[0, 0] == pytest.approx(RIGHT[0, 0] + 1, abs=0.006)
    edit(path, json.dumps(to_coco([film("one/longer.png")])), 0)  # same time
    assert list(read_coco(path)) == ["one/longer.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of the change of the status")
def test_a_coco_file_of_the_same_name_size_and_modification_time_is_read_again(tmp_path, monkeypatch):
    """As after `rsync --times`, and for the same relative path in another folder."""
    for folder, name in ((tmp_path, "one"), (tmp_path, "two"), (tmp_path / "other", "six")):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        write_coco(Path("a.json"), [film(f"{name}/a.png")])
        os.utime("a.json", ns=(10**18, 10**18))
        assert list(read_coco(Path("a.json"))) == [f"{name}/a.png"]
        time.sleep(0.02)  # longer than the resolution of the file system's clock


def test_coco_has_the_keys_that_coco_tools_need():
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
    "content",
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
def test_the_error_of_an_invalid_coco_file_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UnreadableFileError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")
