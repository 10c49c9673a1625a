"""Which films `kneegrade grade` reads from its inputs, and what tells them apart in its results."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
FILM = EXAMPLES / "single_right.dcm"


def test_films_of_one_name_from_two_folders_are_told_apart(kneegrade_here, tmp_path):
    for patient in ("patA", "patB"):
        (tmp_path / patient).mkdir()
    shutil.copy(FILM, tmp_path / "patA" / "film.dcm")
    shutil.copy(EXAMPLES / "bilateral.dcm", tmp_path / "patB" / "film.dcm")
    done = kneegrade_here("grade", tmp_path / "patA", tmp_path / "patB", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = {
        "patA/film.dcm": hashlib.sha256(FILM.read_bytes()).hexdigest(),
        "patB/film.dcm": hashlib.sha256((EXAMPLES / "bilateral.dcm").read_bytes()).hexdigest(),
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {film["source"]: film["sha256"] for film in report["radiographs"]} == expected
    rows = list(csv.DictReader((tmp_path / "out" / "grades.csv").read_text("utf-8-sig").splitlines()))
    assert [row["source"] for row in rows] == ["patA/film.dcm", "patB/film.dcm", "patB/film.dcm"]
    assert {row["source"]: row["sha256"] for row in rows} == expected
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in expected)
    assert "patA/film" in done.stdout.replace("\n", "")


def test_outputs_inside_the_input_folder_are_not_read_as_films(kneegrade_here, tmp_path):
    shutil.copy(FILM, tmp_path / "film.dcm")
    for output in (tmp_path / "out", tmp_path):
        done = kneegrade_here("landmarks", tmp_path, "-o", output, "--format", "pts,csv,coco,png", "-q")
        assert done.returncode == 0, done.stderr
        assert kneegrade_here("grade", tmp_path, "-o", output, "-q").returncode == 0
    assert (tmp_path / "out" / "film.landmarks.png").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [film["source"] for film in report["radiographs"]] == ["film.dcm"]


def test_a_linked_folder_is_graded_and_a_link_to_nothing_is_a_failure(kneegrade_here, tmp_path):
    for name in ("in", "archive"):
        (tmp_path / name).mkdir()
    shutil.copy(FILM, tmp_path / "archive" / "film.dcm")
    (tmp_path / "in" / "study").symlink_to(tmp_path / "archive")
    (tmp_path / "in" / "gone.dcm").symlink_to(tmp_path / "nowhere.dcm")
    done = kneegrade_here("grade", tmp_path / "in", "-o", tmp_path / "out", "--format", "json", "-q")
    assert (done.returncode, done.stderr) == (1, "1 of 2 files could not be read: 1 cannot open.\n")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    status = {film["source"]: film["status"] for film in report["radiographs"]}
    assert status == {"gone.dcm": "failed", "study/film.dcm": "graded"}
