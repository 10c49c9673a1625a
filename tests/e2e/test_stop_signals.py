"""`kneegrade grade` that is stopped by a signal, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kneegrade.schema import TARGET_NAMES

EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"
STOPPED_AT = """
import os, sys
from kneegrade import grader
from kneegrade.reporting import landmark_export
read, (film, number) = grader.detect_film, sys.argv[1:3]
def detect_film(source, *rest):
    if source.name == film:
        os.kill(os.getpid(), int(number))
    return read(source, *rest)
grader.detect_film = landmark_export.detect_film = detect_film
del sys.argv[1:3]
from kneegrade.commands import main
main()
"""  # a real signal at a known film


def default_sigint():
    """A background job of a shell ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def films(folder, number):
    folder.mkdir()
    for i in range(number):
        shutil.copy(EXAMPLE, folder / f"film{i:02}.dcm")
    return folder


def run_until(film, number, verb, folder, output, *options):
    command = [sys.executable, "-c", STOPPED_AT, film, str(int(number)), verb, str(folder), "-o", str(output)]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, check=False, preexec_fn=default_sigint
    )


def grade_until(film, number, folder, output, *options):
    return run_until(film, number, "grade", folder, output, *options)


@pytest.mark.parametrize(
    ("number", "code", "name", "options"),
    [(signal.SIGINT, 130, "Ctrl-C", ()), (signal.SIGTERM, 143, "SIGTERM", ("-q",)), (signal.SIGHUP, 129, "SIGHUP", ())],
)
def test_the_films_graded_before_a_signal_are_in_the_report(number, code, name, options, tmp_path):
    done = grade_until("film03.dcm", number, films(tmp_path / "in", 5), tmp_path / "out", *options)
    assert done.returncode == code
    assert f"Stopped by {name}: 3 of 5 films" in done.stderr
    assert "2 were left, from 'film03.dcm' on" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "grades.csv", "inputs.json", "report.html", "report.json"
    ]  # fmt: skip
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["radiographs"]
    assert [row["source"] for row in rows] == [f"film{i:02}.dcm" for i in range(5)]
    assert [row["status"] for row in rows] == ["graded"] * 3 + ["failed"] * 2
    assert {row["reason"]["code"] for row in rows[3:]} == {"interrupted"}


def test_the_tables_of_landmarks_have_the_films_before_a_signal(tmp_path):
    output = tmp_path / "out"
    done = run_until(
        "film02.dcm", signal.SIGTERM, "landmarks", films(tmp_path / "in", 4), output, "--format", "csv,coco,pts"
    )
    assert (done.returncode, done.stderr.strip()) == (
        143, "kneegrade: Stopped by SIGTERM: the files have 2 of 4 films."
    )  # fmt: skip
    assert sorted(path.name for path in output.iterdir()) == [
        "film00.pts", "film01.pts", "landmarks.csv", "landmarks.json"
    ]  # fmt: skip
    images = json.loads((output / "landmarks.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["film00.dcm", "film01.dcm"]
    assert len((output / "landmarks.csv").read_text().splitlines()) == 3


def test_a_killed_run_leaves_a_line_for_every_graded_film(tmp_path):
    done = grade_until("film02.dcm", signal.SIGKILL, films(tmp_path / "in", 3), tmp_path / "out")
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["films.partial.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "films.partial.jsonl").read_text().splitlines()]
    assert [(row["source"], row["status"]) for row in rows] == [("film00.dcm", "graded"), ("film01.dcm", "graded")]
    assert set(rows[0]["knees"][0]["grades"]) == set(TARGET_NAMES)


def test_a_signal_before_the_first_film_writes_nothing(tmp_path):
    done = grade_until("film00.dcm", signal.SIGTERM, films(tmp_path / "in", 2), tmp_path / "out")
    assert (done.returncode, list((tmp_path / "out").iterdir())) == (143, [])
    assert done.stderr.strip() == "kneegrade: The run was stopped by SIGTERM before the results were written."


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the decoding process in /proc")
def test_ctrl_c_also_reaches_the_decoding_process(tmp_path):
    """A terminal sends the signal to the whole group of processes; no film may count as damaged for it."""
    command = [sys.executable, "-m", "kneegrade", "grade", str(films(tmp_path / "in", 40)), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=default_sigint,
    ) as process:  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while not children.read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    rows = []
    if (tmp_path / "out" / "report.json").exists():
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["radiographs"]
    assert {row["reason"]["code"] for row in rows if row["status"] == "failed"} <= {"interrupted"}
