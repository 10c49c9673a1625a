"""`kneegrade share` as a user runs it."""

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from kneegrade.commands import main

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run, in this process, on a film whose name is that of a patient, and on a file that is no film."""
    folder = tmp_path_factory.mktemp("share")
    films = folder / "input"
    films.mkdir()
    (films / "MUELLER_JOERG.dcm").write_bytes((EXAMPLES / "single_right.dcm").read_bytes())
    (films / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM broken")
    command = ["kneegrade", "share", films, "--output", folder / "out", "--secret", folder / "secret"]
    stdout, stderr = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", list(map(str, command)))
        with pytest.raises(SystemExit) as end:
            main()
    return subprocess.CompletedProcess(command, end.value.code, stdout.getvalue(), stderr.getvalue()), folder


def test_the_film_is_shared_and_the_broken_file_named(shared):
    done, folder = shared
    assert done.returncode == 1
    (film,) = (folder / "out" / "films").iterdir()
    assert done.stdout == (
        f"Film 1: {film.name} (pixels outside the knees blanked; grades as on the original film)\n"
        f"Shared 1 of 2 films in {folder / 'out'}. Look at them before you publish them.\n"
    )
    assert "Film 2 (broken.dcm) was not shared: " in done.stderr


def test_the_name_of_the_file_is_nowhere(shared):
    done, folder = shared
    assert "MUELLER" not in done.stdout + done.stderr
    for path in (folder / "out").rglob("*"):
        assert "MUELLER" not in path.name
        assert path.is_dir() or b"MUELLER" not in path.read_bytes()


def test_the_recipient_gets_the_same_results(shared, kneegrade_here):
    _, folder = shared
    done = kneegrade_here(
        "grade", folder / "out" / "films", "--output", folder / "again", "--format", "json", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    once, again = (json.loads((folder / name / "report.json").read_text()) for name in ("out", "again"))
    assert once["radiographs"] == again["radiographs"]


def test_the_output_may_not_be_inside_the_input(kneegrade_here, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(EXAMPLES / "single_right.dcm", tmp_path / "in")
    for output in (tmp_path / "in", tmp_path / "in" / "out"):
        done = kneegrade_here("share", tmp_path / "in", "--output", output, "--secret", tmp_path / "secret")
        assert (done.returncode, "inside an input folder" in done.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["single_right.dcm"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--secret", "out/secret"), "inside the output folder"),
        (("--secret", "secret", "--format", "json,doc"), "not a list of formats"),
        ((), "Missing option '--secret'"),
    ],
)
def test_wrong_usage(kneegrade_here, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = kneegrade_here("share", EXAMPLES / "single_right.dcm", "--output", "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "secret").exists()
