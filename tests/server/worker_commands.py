"""A task for the workers of the server that does what a film's content says; importable by the workers."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kneegrade.errors import WeightsError
from kneegrade.server.spool.film_spool import ClaimedFilm, Spool
from kneegrade.server.spool_task import SpoolOutcome


@dataclass(frozen=True)
class CommandTask:
    """A film that contains "kill" kills its worker, "once" the first time, "hang" hangs it, "slow" takes a second.

    "bad" cannot be graded, "full" meets a full disk the first time. Every other film gets one result.
    """

    spool: Path

    def start(self) -> Callable[[ClaimedFilm], SpoolOutcome]:
        spool = Spool(self.spool, min_free_bytes=0)
        return lambda film: self._outcome(spool, film)

    def _outcome(self, spool: Spool, film: ClaimedFilm) -> SpoolOutcome:
        command = film.path.read_text().split()[0]
        if command == "kill" or (command == "once" and film.attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if command == "bad":
            return SpoolOutcome(problem="format: no film", is_final=True)
        if command == "full" and not (seen := self.spool / "seen").exists():
            seen.touch()
            return SpoolOutcome(problem="spool_full: full", is_postponed=True)
        time.sleep({"hang": 1000.0, "slow": 1.0}.get(command, 0.0))
        with spool.writing_results(film.key) as folder:
            (folder / "sr.dcm").write_text(command)
        return SpoolOutcome(("sr.dcm",))


@dataclass(frozen=True)
class TaskWithoutNetworks:
    """A task whose networks cannot be loaded, or whose process dies at the start."""

    dies: bool = False

    def start(self) -> Callable[[ClaimedFilm], SpoolOutcome]:
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise WeightsError("The weights are damaged.")
