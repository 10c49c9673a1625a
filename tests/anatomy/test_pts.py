import numpy as np
import pytest

from kneegrade.anatomy.landmark_files import read_pts, write_pts
from kneegrade.errors import UnreadableFileError

POINTS = np.arange(148, dtype=float).reshape(74, 2) / 4


def text(points, count=None) -> str:
    lines = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points: {count or len(points)}\n{{\n{lines}\n}}"


def test_what_is_written_is_read(tmp_path):
    write_pts(tmp_path / "a.pts", POINTS)
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts")[0], POINTS)


def test_without_the_final_newline_and_with_windows_ends(tmp_path):
    (tmp_path / "a.pts").write_text(text(POINTS).replace("\n", "\r\n"), newline="")
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts")[0], POINTS)


def test_two_knees(tmp_path):
    (tmp_path / "a.pts").write_text(text(np.concatenate([POINTS, POINTS + 100])))
    both = read_pts(tmp_path / "a.pts")
    assert both.shape == (2, 74, 2)
    np.testing.assert_allclose(both[1] - both[0], 100)


def test_millimetres_use_column_spacing_for_x(tmp_path):
    (tmp_path / "a.pts").write_text(text(POINTS))
    got = read_pts(tmp_path / "a.pts", unit="mm", pixel_spacing_mm=(0.5, 0.25))[0]
    np.testing.assert_allclose(got, POINTS / [0.25, 0.5])
    with pytest.raises(UnreadableFileError, match="spacing"):
        read_pts(tmp_path / "a.pts", unit="mm")


@pytest.mark.parametrize(
    "content",
    ["", "version: 2\nn_points: 74\n{\n}", text(POINTS[:70]), text(POINTS, 148),
     text(POINTS).replace("0.0 0.25", "a b"),
     text(POINTS).replace("0.0 0.25", "nan 1"), text(POINTS).replace("0.0 0.25", "1 2 3")],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence(tmp_path, content):
    (tmp_path / "a.pts").write_text(content)
    with pytest.raises(UnreadableFileError, match=r"a\.pts"):
        read_pts(tmp_path / "a.pts")
