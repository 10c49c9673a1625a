import os

import pytest

from kneegrade.files import replacing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")

    def write_half():
        with replacing(path) as stream:
            stream.write("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_new_files_have_the_usual_permissions(tmp_path):
    with replacing(tmp_path / "a") as stream:
        stream.write("a")
    (tmp_path / "b").write_text("b", encoding="utf-8")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_undecodable_names_do_not_stop_a_report(tmp_path):
    with replacing(tmp_path / "a") as stream:
        stream.write("film\udcff.dcm")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "film?.dcm"
