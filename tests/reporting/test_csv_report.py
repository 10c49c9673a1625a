import csv
from dataclasses import replace

import pandas as pd
import pytest

from kneegrade.cohorts.table_files import read_table
from kneegrade.reporting import write_csv
from kneegrade.reporting.csv_report import COLUMNS
from kneegrade.results import Finding, GradedRadiograph
from kneegrade.schema import OARSI_NAMES, TARGET_NAMES


@pytest.fixture
def table(report, tmp_path):
    write_csv(report, tmp_path / "grades.csv")
    return pd.read_csv(tmp_path / "grades.csv", keep_default_na=False, na_values=[""])


def test_one_row_per_knee_and_per_film_without_knees(table):
    assert list(table.columns) == list(COLUMNS)
    assert table["source"].tolist()[:6] == ["pair.dcm", "pair.dcm", "half.dcm", "half.dcm", "plain.png", "hip.dcm"]
    assert table["status"].tolist() == ["graded"] * 3 + ["not_gradable", "graded", "not_gradable", "failed"]
    assert table["side"].tolist()[:5] == ["R", "L", "L", "R", "unknown"]
    assert table["reason_code"].dropna().tolist() == ["implant", "no_knee", "unreadable"]


def test_values_equal_those_of_the_report(report, table):
    knee, row = report.radiographs[0].knees[0], table.iloc[0]
    assert [row[name] for name in TARGET_NAMES] == [knee.grades[name].grade for name in TARGET_NAMES]
    assert [row[f"kl_p{i}"] for i in range(5)] == pytest.approx(knee.grades["kl"].probabilities, abs=1e-6)
    for name in OARSI_NAMES:
        assert row[f"{name}_probability"] == pytest.approx(max(knee.grades[name].probabilities), abs=1e-6)
    assert (row["joint_space_medial_mm"], row["joint_space_lateral_mm"]) == (3.27, 5.918)
    assert row["coherence_log_probability"] == pytest.approx(knee.coherence.log_probability, abs=1e-4)
    assert row["coherence_decoding_shift"] == 3
    assert (row["warnings"], row["coherence_findings"]) == ("no_spacing", "kl2_with_oarsi_zero")


def test_missing_measurements_are_empty_cells(table):
    plain, refused = table.iloc[4], table.iloc[3]
    assert plain[["joint_space_medial_mm", "coherence_log_probability", "warnings"]].isna().all()
    assert refused[["kl", "kl_p0", "jsn_medial_probability"]].isna().all()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_no_text_is_a_formula(report, tmp_path, start):
    film = GradedRadiograph(start + "1+1,\n\"x'.dcm", reason=Finding("a", start + "cmd"), failed=True)
    write_csv(replace(report, radiographs=(film,)), tmp_path / "grades.csv")
    with (tmp_path / "grades.csv").open(encoding="utf-8-sig", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["source"] == "'" + film.source
    assert row["reason"] == "'" + film.reason.message


def test_negative_numbers_stay_numbers(report, tmp_path):
    film = report.radiographs[0]
    knee = replace(film.knees[0], coherence=replace(film.knees[0].coherence, log_probability=-3.5))
    write_csv(replace(report, radiographs=(replace(film, knees=(knee,)),)), tmp_path / "grades.csv")
    assert pd.read_csv(tmp_path / "grades.csv")["coherence_log_probability"].tolist() == [-3.5]


def test_spreadsheets_and_libraries_read_names_that_are_not_ascii(report, tmp_path):
    """Excel takes a file without the mark for Windows-1252."""
    name = "右膝 Müller.dcm"
    path = tmp_path / "grades.csv"
    write_csv(replace(report, radiographs=(replace(report.radiographs[0], source=name),)), path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfsource,side,")
    assert pd.read_csv(path)["source"].tolist() == [name, name]
    assert read_table(path)["SOURCE"].tolist() == [name, name]
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.read_csv(str(path)).fetchnumpy()["source"].tolist() == [name, name]
    polars = pytest.importorskip("polars")
    assert polars.read_csv(path)["source"].to_list() == [name, name]
