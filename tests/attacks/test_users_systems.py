"""Promise 11: on systems as users have them, kneegrade works or says one sentence."""

import json
import shutil
import stat
import sys

import pytest
from user_systems import ALL_AT_ONCE, ROOT, SYSTEMS, can_mount, run_on

from kneegrade.schema import TARGET_NAMES

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs the right to mount in a namespace (unshare --mount)")
FORMATS = "json,html,csv"
GRADE = ("grade", "Knie 膝.dcm", "-o", "out", "-q", "--format", FORMATS)
REFUSED = """
import getpass, os, sys, tempfile
from pathlib import Path
attempts = {
    "non-ASCII output": lambda: sys.stdout.write(chr(0x819D)),
    "name of the user": getpass.getuser,
    "home": Path.home,
    "write beside the package": lambda: open(sys.argv[1], "w"),
    "shared memory": lambda: __import__("multiprocessing").Lock(),
    "large temporary file": lambda: tempfile.TemporaryFile().write(bytes(100_000)),
    "standard input": lambda: os.fstat(0),
}
for name, attempt in attempts.items():
    try:
        attempt()
        sys.stdout.flush()
    except Exception:
        print(name, file=sys.stderr)
print(oct(os.umask(0)), file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path):
    """A working directory with a film whose name is not ASCII."""
    shutil.copy(ROOT / "examples" / "single_right.dcm", tmp_path / "Knie 膝.dcm")
    return tmp_path


def test_a_film_is_graded_where_everything_is_missing_at_once(folder):
    done = run_on(ALL_AT_ONCE, GRADE, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (film,) = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["radiographs"]
    assert film["source"] == "Knie ???.dcm"  # this locale cannot read the name
    assert set(film["knees"][0]["grades"]) == set(TARGET_NAMES)
    for path in (folder / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_program_that_needs_what_is_missing_fails_there(folder):
    """The planted faults: each condition stops something that an ordinary program may do."""
    done = run_on(ALL_AT_ONCE, [str(ROOT / "src" / "planted")], folder, program=("-c", REFUSED))
    assert done.stderr.split("\n") == [
        "non-ASCII output", "name of the user", "home", "write beside the package", "shared memory",
        "large temporary file", "standard input", "0o77", "",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    "arguments",
    [
        GRADE,
        ("batch", "Knie 膝.dcm", "-o", "out", "-q", "--workers", "2"),
        ("landmarks", "Knie 膝.dcm", "-o", "out", "-q", "--format", "pts,csv,coco,png"),
        ("share", "Knie 膝.dcm", "-o", "out", "--secret", "secret"),
        ("phantom", "-n", "2", "--longest-px", "300", "-o", "out", "-q"),
        ("cohort", "fake-most", "--subjects", "4", "--longest-px", "300", "-o", "out", "-q"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_work_on_each_system(name, arguments, folder):
    if arguments[0] == "share":
        pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
    done = run_on(SYSTEMS[name], arguments, folder)
    assert done.returncode == 0, done.stderr
    assert any((folder / "out").iterdir())


def test_work_for_several_processes_is_done_without_shared_memory(tmp_path):
    program = (
        "from kneegrade.training.parallel import parallel_map\n"
        "assert sorted(parallel_map(abs, [-1, -2], workers=2)) == [(-2, 2), (-1, 1)]"
    )
    done = run_on(SYSTEMS["no shared memory"], [], tmp_path, program=("-c", program))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts on /dev/null")
def test_a_message_of_wrong_usage_needs_no_stream(tmp_path):
    done = run_on(SYSTEMS["no standard streams"], ["batch", "missing.dcm", "-o", "out"], tmp_path)
    assert done.returncode == 2
