"""`kneegrade batch` as a process that is killed or stopped; films are not graded here, but only named."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kneegrade.batch import read_table

WARNINGS = os.environ.get("KNEEGRADE_TEST_WARNINGS", "error")  # `make test-oldest`: ignore
PROGRAM = "import worker_faults; worker_faults.main()"


def make_films(folder, number):
    folder.mkdir()
    for i in range(number):
        (folder / f"film{i:04d}.png").write_bytes(b"\x89PNG")
    return folder


def start(folder, output, *options, seconds=0.1):
    command = [sys.executable, "-W", WARNINGS, "-c", PROGRAM, str(seconds), "batch", folder, "-o", output, *options]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=output.parent, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process):
    out, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return process.returncode, out, errors


def descendants(pid):
    """The processes that a process has started; each worker has a session of its own."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def kill_all(process):
    for pid in [process.pid, *descendants(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def number_of_parts(output):
    return len(list((output / "films").glob("[!.]*")))


def wait_for(condition, process):
    """Wait until something is true of a running process."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize(("kills", "films"), [(1, 60), pytest.param(20, 2000, marks=pytest.mark.slow)])
def test_after_kills_at_random_moments_each_film_has_one_row(kills, films, tmp_path):
    folder, output, moments = make_films(tmp_path / "in", films), tmp_path / "out", random.Random(1)
    for _ in range(kills):
        before = number_of_parts(output)
        process = start(folder, output, "--workers", "2", seconds=0.005)
        wait_for(lambda: number_of_parts(output) > before, process)  # noqa: B023
        time.sleep(moments.uniform(0, 0.3))
        kill_all(process)
    code, out, _ = end(start(folder, output, "--workers", "2", "--log-format", "json", seconds=0.0))
    last = json.loads(out.splitlines()[-1])
    assert (code, last["event"], last["left"]) == (0, "finished", 0)
    assert last["skipped"] > 0
    rows = {table: read_table(output, table, ["source"])["source"].to_pylist() for table in ("films", "knees", "log")}
    expected = Counter(f"film{i:04d}.png" for i in range(films))
    assert Counter(rows["films"]) == Counter(rows["knees"]) == Counter(rows["log"]) == expected
    assert {path.name for path in (output / "knees").iterdir()} == {path.name for path in (output / "films").iterdir()}


def test_signals_stop_a_run_that_then_goes_on(tmp_path):
    folder, output = make_films(tmp_path / "in", 60), tmp_path / "out"
    process = start(folder, output, "--workers", "1")
    wait_for(lambda: number_of_parts(output), process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = end(process)
    assert code == 130
    done = len(read_table(output, "films", ["source"]))
    assert 0 < done < 60
    assert f"Stopped by Ctrl-C: {done} films were graded now and 0 before; {60 - done} are left." in errors
    code, out, _ = end(start(folder, output, "--workers", "1", seconds=0.0))
    assert code == 0
    assert f"Finished by an earlier run and not graded again: {done}." in out
    assert f"{60 - done} films in" in out


def test_two_sigterms_stop_at_once(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "hang.png"):
        (folder / name).write_bytes(b"\x89PNG")
    process = start(folder, output, "--workers", "1", "-q", seconds=0.0)
    wait_for(lambda: (tmp_path / "hang.png.seen").exists(), process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert end(process)[0] == 143
    assert read_table(output, "films", ["source"])["source"].to_pylist() == ["a.png"]
