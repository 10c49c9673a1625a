"""CPU time by stage, for the other benchmarks: that of this process and, if wanted, of its decoding process."""

import functools
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kneegrade.imaging.decoding_process import decoding_process


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
    path = Path(f"/proc/{pid}/stat")
    if pid is None or not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
