"""The audit log is complete after kills and concurrent writers, and a torn line costs no other one."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kneegrade.server.audit_log import AuditLog, read_audit_log
from kneegrade.server.spool.film_spool import SpoolFullError

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def test_entries_are_lines_in_order(path):
    log = AuditLog(path, clock=lambda: 1_800_000_000.1234)
    log.write("film_received", sender="ARCHIVE", film="a" * 40, is_new=True)
    log.write("purge", films=3)
    first, second = read_audit_log(path)
    assert first == {
        "time": 1_800_000_000.123, "event": "film_received", "sender": "ARCHIVE", "film": "a" * 40, "is_new": True,
    }  # fmt: skip
    assert (second["event"], second["films"]) == ("purge", 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["a\nb", '","event":"forged"', "\u2028\x1b[31m", "\udcff", "x" * 10_000])
def test_no_text_forges_an_entry(path, text):
    AuditLog(path).write("film_received", sender=text)
    (entry,) = read_audit_log(path)
    assert entry["event"] == "film_received"
    assert len(path.read_bytes().splitlines()) == 1
    assert len(path.read_bytes()) < 2000
    path.read_bytes().decode("ascii")


def test_a_torn_line_costs_only_itself(path):
    log = AuditLog(path)
    log.write("first")
    with path.open("ab") as stream:
        stream.write(b'{"time":1,"event":"to')
    log.write("third")
    assert [entry["event"] for entry in read_audit_log(path)] == ["first", "third"]


def test_a_full_disk_is_named_and_leaves_no_half_entry(path):
    log = AuditLog(path)
    log.write("first")
    program = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from kneegrade.server.audit_log import AuditLog\n"
        "size = Path(sys.argv[2]).stat().st_size; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))\n"
        "try: AuditLog(Path(sys.argv[2])).write('second')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, SOURCE, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == SpoolFullError.__name__
    log.write("third")
    assert [json.loads(line)["event"] for line in path.read_bytes().splitlines()] == ["first", "third"]


def test_a_device_that_is_full_is_named(tmp_path):
    with pytest.raises(SpoolFullError, match="free space"):
        AuditLog(Path("/dev/full")).write("event")


def test_writers_of_several_processes_lose_nothing(path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from kneegrade.server.audit_log import AuditLog\n"
        "for number in range(30): AuditLog(Path(sys.argv[2])).write('event', name=f'{sys.argv[3]}.{number}')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, SOURCE, str(path), str(n)]) for n in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    names = [entry["name"] for entry in read_audit_log(path)]
    assert sorted(names) == sorted(f"{n}.{number}" for n in range(3) for number in range(30))


def test_no_file_has_no_entries(path):
    assert list(read_audit_log(path)) == []
