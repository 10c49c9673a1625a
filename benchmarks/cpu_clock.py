"""CPU time by stage, for the other benchmarks: that of this process and, if wanted, of its decoding process."""

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from kneegrade.imaging.decoding_process import decoding_process

PROCESS_CLOCK = 2  # user and system time of all threads of a process; reading /proc would take 80 µs


class Clock:
    """CPU seconds of each stage, without the stages that it calls.

    Args:
        now: function that returns the time in seconds.

    Attributes:
        spent: seconds by stage.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._now = now
        self._inner: list[float] = []

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Replace a function by one that is timed."""
        setattr(owner, name, self.timed(label, getattr(owner, name)))

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = self._now()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent = self._now() - start
                self.spent[label] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return call


def cpu_seconds() -> float:
    """CPU seconds of this process and of the running decoding process."""
    return time.process_time() + _child_seconds(decoding_process().pid)


def _child_seconds(pid: int | None) -> float:
    """CPU seconds of a running child process (Linux); 0 elsewhere."""
    if pid is None or sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime(~pid << 3 | PROCESS_CLOCK)  # as clock_getcpuclockid(3) makes it
    except OSError:  # it has ended
        return 0.0
