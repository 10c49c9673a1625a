"""`killed_when_stuck`: a child process that makes no progress is killed, and a busy computer is no reason.

On Linux, progress is processor time that the process uses. A valid image of 100 megapixels needs most of a minute of
it, which on a busy computer takes several minutes; a stopped process, or one that waits for a disk, uses none. On other
systems the processor time of a child is not known, and the time on the clock counts.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Final, Literal, NamedTuple

LOOK_SECONDS: Final = 0.2
LOOKS_STOPPED: Final = 2  # in a row, after which a stopped process is killed
LEAST_SHARE: Final = 0.01  # of one processor; a process that uses less makes no progress
LONGEST: Final = 10  # times the seconds without progress, for a process that makes progress
TICKS_PER_SECOND: Final = 100  # of the processor times in /proc

Reason = Literal["stopped", "stuck", "too_long"]


class ProcessState(NamedTuple):
    """What the system tells of a process.

    Attributes:
        letter: "T" if the process is stopped; others are R, S, D, Z.
        seconds: processor time that it has used.
    """

    letter: str
    seconds: float


@dataclass
class Watch:
    """What became of a watched process.

    Attributes:
        reason: why the process was killed, or None.
    """

    reason: Reason | None = None


def process_state(pid: int) -> ProcessState | None:
    """State and processor time of a process; None if the system does not tell them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return ProcessState(fields[0], (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND)
    except (OSError, ValueError, IndexError):
        return None


@contextmanager
def killed_when_stuck(process: "Popen[bytes]", seconds: float) -> Iterator[Watch]:
    """Yields a `Watch`. A process that is stuck within the block is killed, and its `reason` is set.

    The looks are counted rather than the clock read, so that a pause of all processes (Ctrl-Z) is no time.

    Args:
        process: that works while the block waits for it.
        seconds: without progress, after which it is killed; ten times as long in all.
    """
    watch, finished = Watch(), threading.Event()

    def look() -> None:
        watch.reason = _reason_to_kill(process.pid, seconds, finished.wait)
        if watch.reason is not None:
            process.kill()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        finished.set()
        thread.join()


def _reason_to_kill(pid: int, seconds: float, has_finished: Callable[[float], bool]) -> Reason | None:
    """Why a process is to be killed, as soon as it is; None when it has finished."""
    pause = min(LOOK_SECONDS, seconds)
    before = process_state(pid)
    waited = in_all = 0.0
    stopped = 0
    while not has_finished(pause):
        waited, in_all = waited + pause, in_all + pause
        now = process_state(pid)
        stopped = stopped + 1 if now is not None and now.letter == "T" else 0
        if stopped == LOOKS_STOPPED:
            return "stopped"
        if waited < seconds:
            continue
        if before is None or now is None or in_all >= LONGEST * seconds:
            return "too_long"
        if now.seconds - before.seconds < LEAST_SHARE * waited:
            return "stuck"
        before, waited = now, 0.0
    return None
