"""A process that waits or is stopped is killed; one that computes on a busy computer is not."""

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from kneegrade.imaging import stuck_process
from kneegrade.imaging.stuck_process import killed_when_stuck, process_state

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the processor time of a child")
BUSY = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\nprint('done')"
WAITS = "import time; time.sleep(600)"
Started = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def started():
    """Starts a Python program, which is ended with the test."""
    processes = []

    def start(program: str) -> "subprocess.Popen[bytes]":
        processes.append(subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def reason_for(process: "subprocess.Popen[bytes]", seconds: float) -> str | None:
    with killed_when_stuck(process, seconds) as watch:
        process.wait(60)
    return watch.reason


def test_a_process_that_waits_is_killed(started: Started) -> None:
    process = started(WAITS)
    assert reason_for(process, 0.3) == "stuck"
    assert process.returncode == -signal.SIGKILL


@needs_proc
def test_a_process_that_computes_may_take_longer(started: Started) -> None:
    process = started(BUSY.format(seconds=1.0))
    assert reason_for(process, 0.8) is None
    assert process.returncode == 0


@needs_proc
def test_a_process_that_computes_for_ever_is_killed_in_the_end(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck_process, "LONGEST", 2)
    assert reason_for(started(BUSY.format(seconds=600)), 0.5) == "too_long"


def test_where_the_processor_time_is_not_known_the_clock_counts(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck_process, "process_state", lambda pid: None)
    assert reason_for(started(BUSY.format(seconds=600)), 0.3) == "too_long"


@needs_proc
def test_a_stopped_process_is_killed_soon(started: Started) -> None:
    process = started(WAITS)
    process.send_signal(signal.SIGSTOP)
    assert reason_for(process, 60) == "stopped"


@needs_proc
def test_a_process_that_goes_on_is_not_killed(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck_process, "LOOK_SECONDS", 1.0)
    process = started(BUSY.format(seconds=0.2))
    process.send_signal(signal.SIGSTOP)
    with killed_when_stuck(process, 60) as watch:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGCONT)
        process.wait(60)
    assert (watch.reason, process.returncode) == (None, 0)


def test_the_state_of_no_process_is_not_known() -> None:
    assert process_state(-1) is None
