import os
import subprocess
import sys

import pytest

import kneegrade.reporting
from kneegrade.errors import UsageError
from kneegrade.reporting import write_csv, write_report


def test_write_report_writes_the_requested_formats(report, tmp_path):
    paths = write_report(report, tmp_path / "new" / "run", ("csv", "json"))
    assert {name: path.name for name, path in paths.items()} == {"csv": "grades.csv", "json": "report.json"}
    assert sorted(os.listdir(tmp_path / "new" / "run")) == ["grades.csv", "report.json"]


def test_unknown_format_writes_nothing(report, tmp_path):
    with pytest.raises(UsageError, match="'pdf' is unknown; choose from json, html, csv"):
        write_report(report, tmp_path / "new", ("csv", "pdf"))
    assert not (tmp_path / "new").exists()


def test_unwritable_places_are_usage_errors(report, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="could not be written") as caught:
        write_report(report, tmp_path / "file")
    assert caught.value.code == "not_writable"
    with pytest.raises(UsageError, match=r"grades\.csv could not be written"):
        write_csv(report, tmp_path / "missing" / "grades.csv")


def test_import_is_fast_and_every_exported_name_exists():
    heavy = "{'jinja2', 'PIL', 'rich', 'torch', 'pandas', 'scipy'}"
    code = f"import sys, kneegrade.reporting; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    assert all(hasattr(kneegrade.reporting, name) for name in kneegrade.reporting.__all__)
