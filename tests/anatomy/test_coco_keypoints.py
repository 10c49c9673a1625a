"""COCO keypoints JSON."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kneegrade.anatomy.coco_keypoints import CocoFilm, CocoKnee, read_coco, to_coco, write_coco
from kneegrade.anatomy.shape_model import ShapeModel
from kneegrade.errors import UnreadableFileError

MM_PER_PX = 0.2
RIGHT = ShapeModel.load().mean({}) / MM_PER_PX + [400, 500]  # lateral on the left
LEFT = ShapeModel.load().mean({}) * [-1, 1] / MM_PER_PX + [1000, 510]


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
