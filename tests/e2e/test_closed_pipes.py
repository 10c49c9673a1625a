"""Commands whose output goes to a program that ends early, such as `head`: they end quietly, with one exit code."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows reports closed pipes in another way")
EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"
COMMAND = [sys.executable, "-m", "kneegrade"]


def run_without_reader(*arguments: object, stderr_too: bool = False) -> tuple[int, str]:
    """The exit code and standard error of a command whose standard output has no reader any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as out:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], stdout=out, stderr=out if stderr_too else subprocess.PIPE, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    return done.returncode, done.stderr or ""


@pytest.fixture(scope="module")
def structured_report(tmp_path_factory):
    pytest.importorskip("highdicom", reason="structured reports need kneegrade[dicom]")
    output = tmp_path_factory.mktemp("graded")
    code, errors = run_without_reader("grade", EXAMPLE, "-o", output, "--format", "json,sr")
    assert (code, errors) == (141, "")  # the table of rich had no reader; the files were written before
    assert (output / "report.json").stat().st_size > 1000
    return output / "dicom" / "single_right.sr.dcm"


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("sr", "-h"), ("info",)])
def test_a_reader_that_has_ended_ends_the_command(arguments):
    assert run_without_reader(*arguments) == (141, "")


def test_graded_films_and_structured_reports(structured_report):
    assert run_without_reader("sr", "read", structured_report) == (141, "")
    line = shlex.join([*COMMAND, "sr", "read", *[str(structured_report)] * 40])  # more than a pipe holds
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("{\n141\n", "")


def test_a_message_without_reader():
    assert run_without_reader("grade", "no-such-file", "-o", "x", stderr_too=True) == (141, "")
