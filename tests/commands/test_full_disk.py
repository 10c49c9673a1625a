"""Commands whose results do not fit on the disk: one sentence, exit code 2, and what was written is valid.

A limit on the size of a file (RLIMIT_FSIZE) gives the same kind of error as a full disk, for every user. Where the
tests run as root, a small file system in memory is a disk that is really full.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kneegrade.commands import app

resource = pytest.importorskip("resource", reason="needs limits on the size of files")
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="kneegrade")


@contextmanager
def largest_file(size: int):
    """No file can become larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sentence(done) -> str:
    """What a command that failed says, in one line, without a traceback."""
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    text = done.stderr.strip()
    assert text.startswith("kneegrade: ")
    assert "\n" not in text
    return text


def test_a_report_that_does_not_fit_leaves_the_others_and_is_named(tmp_path):
    (tmp_path / "report.html").write_text("of an earlier run")
    with largest_file(15_000):
        text = sentence(run("grade", EXAMPLES / "single_right.dcm", "-o", tmp_path, "-q"))
    assert "report.html could not be written (File too large)" in text
    assert "Written: report.json, grades.csv. Still of an earlier run: report.html." in text
    assert len(json.loads((tmp_path / "report.json").read_text())["radiographs"]) == 1
    assert len(list(csv.reader((tmp_path / "grades.csv").read_text("utf-8-sig").splitlines()))) == 2
    names = ["films.partial.jsonl", "grades.csv", "report.html", "report.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_journal_that_does_not_fit_remains_with_the_films_before(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(4):
        shutil.copy(EXAMPLES / "single_right.dcm", folder / f"film{i}.dcm")
    with largest_file(20_000):
        text = sentence(run("grade", folder, "-o", output, "-q"))
    assert "films.partial.jsonl could not be written (File too large)" in text
    assert "films.partial.jsonl has the films that were graded before." in text
    first = json.loads((output / "films.partial.jsonl").read_text().splitlines()[0])
    assert (first["source"], first["status"]) == ("film0.dcm", "graded")


def test_landmarks_that_do_not_fit_are_named_with_what_is_missing(tmp_path):
    with largest_file(6_000):
        text = sentence(run("landmarks", EXAMPLES, "-o", tmp_path, "--format", "pts,csv,png", "-q"))
    assert "bilateral.landmarks.png could not be written" in text
    assert "The files of 0 of 2 films were written before. landmarks.csv is missing." in text
    assert [path.name for path in tmp_path.iterdir()] == ["bilateral.pts"]


@pytest.mark.parametrize(
    ("options", "output", "file"),
    [
        (["--rois"], "out", "rois.npy.part"),
        (["--dataset"], "out/set", "images.npy"),
        (["--longest-px", "300"], "out", "000000.dcm"),
    ],
)
def test_phantoms_that_do_not_fit_are_a_sentence(options, output, file, tmp_path):
    with largest_file(10_000):
        text = sentence(run("phantom", "-n", "3", *options, "-o", tmp_path / output, "-q"))
    assert f"{file} could not be written (File too large)" in text


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of 16 kB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["phantom", "-n", "1", "--rois", "-q", "-o"],  # memory-mapped: without reserved space the process is killed
        ["landmarks", str(EXAMPLES / "single_right.dcm"), "--format", "png", "-q", "-o"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_a_sentence(arguments, full_disk):
    assert "could not be written (No space left on device)" in sentence(run(*arguments, full_disk))
