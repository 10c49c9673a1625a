"""`run.json` and the lock of a folder."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from kneegrade.batch.run_file import OutputLock, RunSettings, run_description
from kneegrade.batch.shard import POSITIONS, Shard
from kneegrade.errors import UsageError

HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX, int(sys.argv[3]) - int(sys.argv[2]), int(sys.argv[2]))
print("locked", flush=True)
input()
"""


def description(**changes):
    weights = {"grader": {"name": "w", "sha256": "1"}, "detector": {"name": "d", "sha256": "2"}}
    return run_description(RunSettings(**changes), weights, ["/films"], [])


def test_another_value_is_refused_with_its_name(tmp_path):
    lock = OutputLock(tmp_path)
    first = description()
    assert lock.fix(first | {"started": "2026-01-01T00:00:00+01:00"})["started"] == "2026-01-01T00:00:00+01:00"
    assert lock.fix(description())["started"] == "2026-01-01T00:00:00+01:00"  # objects of a resumed run state it
    with pytest.raises(UsageError, match=r"device \(cpu then, cuda now\); side \(None then, R now\)"):
        lock.fix(description(device="cuda", side="R"))
    written = json.loads((tmp_path / "run.json").read_text())
    written["versions"]["torch"] = "1.0"
    (tmp_path / "run.json").write_text(json.dumps(written))
    with pytest.raises(UsageError, match=r"versions\.torch \(1\.0 then, 2\."):
        lock.fix(description())
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        lock.fix(description())
    lock.close()


@contextmanager
def holding(directory, start, end):
    """Another process that locks some bytes of the lock file."""
    command = [sys.executable, "-c", HOLD, str(directory / ".lock"), str(start), str(end)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        yield other


@pytest.mark.parametrize(("shard", "is_free"), [(Shard(2, 2), True), (Shard(1, 2), False), (Shard(), False)])
def test_a_shard_is_locked_against_overlapping_shards_of_other_processes(shard, is_free, tmp_path):
    held = Shard(2, 5)  # overlaps the first half
    with holding(tmp_path, *held.interval) as other:
        lock = OutputLock(tmp_path)
        if is_free:
            lock.lock_shard(shard)
        else:
            with pytest.raises(UsageError, match="Another run is writing"):
                lock.lock_shard(shard)
        other.communicate("\n")
    lock.lock_shard(shard)  # free after the end of the other process
    lock.close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not be written"):
        OutputLock(tmp_path / "file")


def test_the_current_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = OutputLock(Path())
    with holding(tmp_path, *Shard().interval) as other:
        with pytest.raises(UsageError, match=f"these films to {tmp_path.name}; wait"):
            lock.lock_shard(Shard())
        other.communicate("\n")
    lock.fix(description())
    with pytest.raises(UsageError, match=f"^{tmp_path.name} was begun with another value"):
        lock.fix(description(side="R"))
    lock.close()


def test_a_change_of_parts_of_several_shards_waits_for_that_of_another_process(tmp_path):
    lock, changed = OutputLock(tmp_path), threading.Event()

    def change():
        with lock.parts():
            changed.set()

    with holding(tmp_path, POSITIONS + 2, POSITIONS + 3) as other:
        thread = threading.Thread(target=change)
        thread.start()
        assert not changed.wait(0.3)
        other.communicate("\n")
    assert changed.wait(30)
    thread.join()
    lock.close()
