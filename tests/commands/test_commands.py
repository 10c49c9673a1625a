"""Help, usage errors and exit codes of the command line, in this process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from kneegrade.commands import COMMANDS, SUCCESSORS, app, cohort_app
from kneegrade.version import __version__

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = [name for commands in COMMANDS.values() for name in commands]


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="kneegrade", terminal_width=80)


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nsys.argv = ['kneegrade', '--help']\nfrom kneegrade.commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'pydicom', 'sklearn', 'scipy', 'pandas', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("grade", "landmarks", "info", "train", "phantom", "cohort"):
        assert verb in done.stdout


def test_help_lists_every_command_with_its_whole_summary_in_80_columns():
    text = run("--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.partition("Options:")[2]
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines if line and line[0] in NAMES] == NAMES
    for heading in COMMANDS:
        assert f"\n{heading}:\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_every_option_is_explained(name):
    done = run(name, "-h")
    assert done.exit_code == 0
    assert done.stdout == run(name, "--help").stdout
    lines = done.stdout.partition("Options:")[2].partition("Commands:")[0].splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  -"):  # the explanation stands on the same line, or on the next line if it does not fit
            assert "  " in line.strip() or following.startswith(" " * 10), line


@pytest.mark.parametrize("name", [verb.callback.__name__.replace("_", "-") for verb in cohort_app.registered_commands])
def test_every_subcommand_of_cohort_has_help(name):
    done = run("cohort", name, "-h")
    assert done.exit_code == 0
    assert f"kneegrade cohort {name}" in done.stdout


def test_version():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"kneegrade {__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("x.parquet", "-o", "out", "--unknown", "1")])
@pytest.mark.parametrize("name", SUCCESSORS)
def test_an_old_command_names_its_successor(name, arguments):
    done = run(name, *arguments)
    assert (done.exit_code, done.stderr) == (2, f"kneegrade: {SUCCESSORS[name]}\n")
    assert name not in NAMES
    assert any(f"use `kneegrade {new}`" in SUCCESSORS[name] for new in NAMES)


@pytest.mark.parametrize(
    "arguments",
    [["grade"], ["grade", ".", "-o", "x"], ["grade", "nowhere.dcm", "-o", "x"],
     ["grade", str(EXAMPLES), "-o", "x", "--format", "pdf"],
     ["grade", str(EXAMPLES), "-o", "x", "--device", "tpu"], ["train", "none.yaml", "-o", "x"], ["frobnicate"],
     ["landmarks", ".", "-o", "x"], ["batch", str(EXAMPLES), "-o", "x", "--ray-address", "auto"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_two_and_a_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)  # not an error of the program
    assert done.stderr


@pytest.fixture
def folder_with_manifest(tmp_path, monkeypatch):
    """The working directory, with manifest.parquet."""
    monkeypatch.chdir(tmp_path)
    knee = {"image_path": "no.png", "knee_id": "a", "subject_id": "a", "side": "R", "split": "test", "source": "a"}
    pd.DataFrame([knee | {"kl": 1}]).to_parquet("manifest.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["grade", str(EXAMPLES)],
        ["landmarks", str(EXAMPLES)],
        ["phantom", "-n", "1", "--longest-px", "300"],
        ["phantom", "-n", "1", "--rois"],
        ["phantom", "-n", "1", "--dataset"],
        ["dataset", "manifest.parquet", "--workers", "1"],
        ["evaluate", "--manifest", "manifest.parquet"],
        ["calibrate", "--manifest", "manifest.parquet", "--split", "test"],
        ["drift", "--images", "manifest.parquet", "--reference", "manifest.parquet"],
        ["cohort", "fake-oai"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder_with_manifest")
def test_an_output_folder_that_cannot_be_written_is_exit_code_two_and_a_sentence(arguments):
    Path("file").touch()
    done = run(*arguments, "-o", "file/folder")
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert "could not be" in done.stderr
    assert "folder" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize(
    "arguments",
    [
        ["grade", str(EXAMPLES)],
        ["landmarks", str(EXAMPLES)],
        ["phantom", "-n", "1", "--longest-px", "300"],
        ["phantom", "-n", "1", "--rois"],
        ["dataset", "manifest.parquet", "--workers", "1"],
        ["evaluate", "--manifest", "manifest.parquet"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder_with_manifest")
def test_an_existing_folder_without_write_access_is_found_before_the_work(arguments):
    """In /proc nobody can create a file, not even root."""
    done = run(*arguments, "-o", "/proc/self/task")
    assert (done.exit_code, done.stdout) == (2, "")
    assert isinstance(done.exception, SystemExit)
    assert "could not be written (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_in_place_of_a_report_file_is_found_before_grading(tmp_path):
    (tmp_path / "report.html").mkdir()
    done = run("grade", EXAMPLES, "-o", tmp_path)
    assert done.exit_code == 2
    assert "contains a folder named report.html" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("kind", "file"), [("csv", "landmarks.csv"), ("coco", "landmarks.json")])
def test_a_folder_in_place_of_a_table_of_landmarks_is_found_before_the_work(kind, file, tmp_path):
    (tmp_path / file).mkdir()
    done = run("landmarks", EXAMPLES, "-o", tmp_path, "--format", f"pts,{kind}")
    assert done.exit_code == 2
    assert f"contains a folder named {file}" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("output", ["file/manifest.parquet", "folder"])
def test_a_manifest_that_cannot_be_written_is_found_before_the_work(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    done = run("cohort", "csv", "no-such-table.csv", "--mapping", "no.yaml", "-o", output)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert ("file could not be written" if output != "folder" else "contains a folder named folder") in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_exit_code_is_right_when_nothing_can_be_printed():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kneegrade", "grade", "no-such-film.dcm", "-o", "out"], stderr=full, timeout=100,
            check=False, env={"PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [("grade", "1 of 1 files could not be read: 1 format."), ("landmarks", "bad.dcm: The content of")],
)
def test_quiet_commands_print_why_the_exit_code_is_one(command, reason, tmp_path):
    (tmp_path / "bad.dcm").write_bytes(b"no film")
    done = run(command, tmp_path, "-o", tmp_path / "out", "--quiet")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(reason)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["grade", "", "-o", "out"], ["grade", ".", "-o", ""], ["landmarks", ".", "--output="]]
)
def test_an_empty_argument_is_refused_instead_of_meaning_the_current_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert "argument is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_pyarrow_does_not_find_is_exit_code_two_and_a_sentence(tmp_path):
    """Its exceptions have no `filename`."""
    knee = {"image_path": "no.png", "knee_id": "a", "subject_id": "a", "side": "R", "split": "train", "source": "a"}
    pd.DataFrame([knee]).to_parquet(tmp_path / "m.parquet")
    options = ("--manifest", tmp_path / "m.parquet", "--phantoms", tmp_path, "-o", tmp_path / "out")
    done = run("quality-control", *options)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert "truth.parquet" in done.stderr


def test_the_removed_refusal_rate_is_refused_with_what_replaces_it(tmp_path):
    options = ("--manifest", tmp_path / "m.parquet", "--phantoms", tmp_path, "-o", tmp_path / "out")
    done = run("quality-control", *options, "--refusal-rate", "0.02")
    assert done.exit_code == 2
    assert "--finding-rate" in done.stderr


def test_films_of_another_site_are_refused_where_the_detection_of_metal_is_not_trained(tmp_path):
    options = ("--manifest", tmp_path / "m.parquet", "--phantoms", tmp_path, "-o", tmp_path / "out")
    done = run("quality-control", *options, "--implants", tmp_path / "w.safetensors", "--other-site", tmp_path)
    assert done.exit_code == 2
    assert "Leave out one of the two" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rois", "--films"), "choose one"),
        (("--rois", "--dataset"), "choose one"),
        (("--dataset", "--implants", "0.5"), "cannot be used with --dataset"),
        (("--rois", "--distractors", "0.5"), "only be used with films"),
    ],
)
def test_phantom_refuses_options_that_do_not_go_together(arguments, message, tmp_path):
    done = run("phantom", *arguments, "-o", tmp_path / "p")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "p").exists()


def test_a_terminal_without_unicode_does_not_stop_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "kneegrade", "info"], capture_output=True, text=True, timeout=100, check=False,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sha256" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "good", "bad"),
    [
        ("ascii", r"\xe8\u819d.dcm", r"bad\u819d\xdf.dcm"),
        pytest.param("latin-1", "è\\u819d.dcm", r"bad\u819dß.dcm", marks=pytest.mark.slow),
        pytest.param("cp1252", "è\\u819d.dcm", r"bad\u819dß.dcm", marks=pytest.mark.slow),
        ("utf-8", "è膝.dcm", "bad膝ß.dcm"),
    ],
)
def test_names_that_a_terminal_cannot_show_are_shown_with_escapes(encoding, good, bad, tmp_path):
    films = tmp_path / "in"
    films.mkdir()
    shutil.copy(EXAMPLES / "single_right.dcm", films / "è膝.dcm")
    (films / "bad膝ß.dcm").write_bytes(b"no film")
    done = subprocess.run(
        [sys.executable, "-m", "kneegrade", "landmarks", films, "-o", tmp_path / "out膝"],
        capture_output=True, timeout=100, check=False,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1", "COLUMNS": "200"},
    )  # fmt: skip
    shown = done.stdout.decode(encoding)
    assert done.returncode == 1, done.stderr
    assert good in shown
    assert f"{bad}: The content of the file" in shown
    assert (" +/- 0." if encoding == "ascii" else " ± 0.") in shown
    assert ("out膝" if encoding == "utf-8" else r"out\u819d") in shown
    assert b"Traceback" not in done.stderr


def test_landmarks_of_films_with_the_longest_names_are_written(tmp_path):
    films, name = tmp_path / "in", "x" * 250
    films.mkdir()
    for ending in ("a.dcm", "b.dcm"):
        shutil.copy(EXAMPLES / "single_right.dcm", films / f"{name}{ending}")
    done = run("landmarks", films, "-o", tmp_path / "out", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [written[i][-3:] for i in range(4)] == ["png", "pts"] * 2
    assert len({text.partition(".")[0] for text in written}) == 2


@pytest.mark.parametrize(
    "command", [["phantom", "-n", "1"], ["phantom", "-n", "1", "--dataset"], ["landmarks", str(EXAMPLES)]]
)
def test_an_output_folder_whose_name_is_too_long_is_a_sentence(command, tmp_path):
    done = run(*command, "-o", tmp_path / ("y" * 256), "--quiet")
    assert (done.exit_code, done.stdout) == (2, "")
    assert isinstance(done.exception, SystemExit)
    assert "File name too long" in done.stderr
    assert list(tmp_path.iterdir()) == []
