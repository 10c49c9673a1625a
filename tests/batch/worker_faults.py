"""A task for worker processes that does not grade but does what a film's name says; importable by the workers."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kneegrade.batch.plan import PlannedFilm
from kneegrade.batch.rows import FilmRows
from kneegrade.errors import WeightsError
from kneegrade.imaging import Source
from kneegrade.imaging.sources import sha256_of


@dataclass(frozen=True)
class FaultyTask:
    """A film named "kill…" kills its worker, "hang…" hangs it, "once…" kills its worker the first time.

    `folder` gets a file NAME.seen when such a film is begun.
    """

    folder: Path = Path()
    seconds: float = 0.0

    def start(self) -> Callable[[PlannedFilm], FilmRows]:
        return self.rows

    def rows(self, film: PlannedFilm) -> FilmRows:
        name = film.source.name
        first = self.folder / f"{name}.seen"
        is_first = not first.exists()
        if name.startswith(("kill", "once", "hang")):
            first.touch()
        if name.startswith("kill") or (name.startswith("once") and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000 if name.startswith("hang") else self.seconds)
        return rows_of(name, sha256_of(film.source.open()) or "00")


@dataclass(frozen=True)
class TaskWithoutWeights:
    """A task whose networks cannot be loaded."""

    def start(self) -> Callable[[PlannedFilm], FilmRows]:
        raise WeightsError("The weights are damaged.")


@dataclass(frozen=True)
class DeadStartTask:
    """A task that kills its worker while the networks are loaded."""

    def start(self) -> Callable[[PlannedFilm], FilmRows]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class VisibleGpuTask:
    """In the place of the host, the log has the numbers of the GPUs that the worker sees."""

    def start(self) -> Callable[[PlannedFilm], FilmRows]:
        return self.rows

    def rows(self, film: PlannedFilm) -> FilmRows:
        rows = rows_of(film.source.name)
        return replace(rows, log=rows.log | {"host": os.environ.get("CUDA_VISIBLE_DEVICES", "")})


def rows_of(name: str, sha256: str | None = "00") -> FilmRows:
    """Rows of a film with one knee, or of a film that could not be read if there is no checksum."""
    key = {"source": name, "sha256": sha256}
    status = "graded" if sha256 else "failed"
    film = {**key, "status": status, "warnings": [], "knees": int(bool(sha256)), "knees_graded": int(bool(sha256))}
    knees = [{**key, "knee": 0, "side": "R", "status": "graded", "abstain": False, "kl": 2}] if sha256 else []
    log = {**key, "seconds": 0.1, "attempts": 1, "host": "here", "finished": datetime.now(UTC), "version": "1"}
    return FilmRows(film, knees, log)


def planned(*names: str) -> list[PlannedFilm]:
    """Films without files."""
    return [PlannedFilm(Source(name, Path(name))) for name in names]


def main() -> None:
    """`kneegrade batch` with `FaultyTask` in place of the networks; the first argument is the seconds per film."""
    from kneegrade.batch import result_parts, run
    from kneegrade.commands import main as command

    seconds = float(sys.argv.pop(1))
    result_parts.FILMS_PER_PART = 20
    run.FilmTask = lambda *settings: FaultyTask(Path.cwd(), seconds)  # type: ignore[assignment,misc]
    command()


if __name__ == "__main__":
    main()
