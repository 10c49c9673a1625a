import os
import subprocess
import sys

import pytest

import kneegrade.reporting
from kneegrade.errors import UsageError
from kneegrade.files import replacing
from kneegrade.reporting import write_csv, write_report


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


def test_write_report_writes_what_is_asked(report, tmp_path):
    paths = write_report(report, tmp_path / "new" / "run", ("csv", "json"))
    assert {name: path.name for name, path in paths.items()} == {"csv": "grades.csv", "json": "report.json"}
    assert sorted(os.listdir(tmp_path / "new" / "run")) == ["grades.csv", "report.json"]


def test_unknown_format_writes_nothing(report, tmp_path):
    with pytest.raises(UsageError, match="'pdf' is unknown; choose from json, html, csv"):
        write_report(report, tmp_path / "new", ("csv", "pdf"))
    assert not (tmp_path / "new").exists()


def test_places_that_cannot_be_written_are_the_users_to_mend(report, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="could not be written") as caught:
        write_report(report, tmp_path / "file")
    assert caught.value.code == "not_writable"
    with pytest.raises(UsageError, match=r"grades\.csv could not be written"):
        write_csv(report, tmp_path / "missing" / "grades.csv")


def test_import_is_cheap_and_the_export_list_true():
    heavy = "{'jinja2', 'PIL', 'rich', 'torch', 'pandas', 'scipy'}"
    code = f"import sys, kneegrade.reporting; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    assert all(hasattr(kneegrade.reporting, name) for name in kneegrade.reporting.__all__)
