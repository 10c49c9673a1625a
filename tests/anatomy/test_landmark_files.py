"""BoneFinder's .pts and KNEEL's CSV."""

import csv

import numpy as np
import pytest

from kneegrade.anatomy.landmark_files import (
    kneel_row,
    read_kneel_csv,
    read_pts,
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
