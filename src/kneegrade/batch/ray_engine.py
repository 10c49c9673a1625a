"""`RayEngine`: films → rows on a Ray cluster, by actors that run the same task as the local workers.

An actor has one processor and loads the networks once. An actor that dies, perhaps with its computer, is replaced, and
its film is tried again by another one. After three deaths the film gets a row with this reason.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from kneegrade.batch.film_task import failed_rows
from kneegrade.batch.local_engine import FilmWork
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.rows import FilmRows
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.results import Finding

DEATHS: Final = 3  # of actors on one film, after which it is blamed
MAX_DEATHS: Final = 10  # in a row, after which the run ends
POLL_SECONDS: Final = 0.5
_DIED: Final = Finding(
    "worker_died",
    f"The process that graded this film died {DEATHS} times. Grade it on a computer with more memory, and report it.",
)


class FilmActor:
    """A process of the cluster that holds the networks."""

    def __init__(self, task: FilmWork) -> None:
        self._error: KneeGradeError | None = None
        try:
            self._grade = task.start()
        except KneeGradeError as error:  # Ray would hide it behind the death of the actor
            self._error = error

    def grade(self, film: PlannedFilm) -> FilmRows:
        """The rows of a film.

        Raises:
            KneeGradeError: the networks could not be loaded.
        """
        if self._error is not None:
            raise self._error
        return self._grade(film)


class RayEngine:
    """Runs a task in actors of a Ray cluster.

    Args:
        task: what an actor does.
        workers: number of actors, with one processor each.
        stop: number of signals to stop that have arrived.
        address: of a running cluster, for example "auto"; None starts Ray on this computer.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self, task: FilmWork, *, workers: int, stop: StopCount = lambda: 0, address: str | None = None
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to a server otherwise
        try:
            import ray
        except ImportError:
            raise UsageError('The engine "ray" needs the package ray: pip install "kneegrade[ray]"') from None
        self._ray = ray
        self._task, self._number, self._stop = task, workers, stop
        if not ray.is_initialized():
            try:
                local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except Exception as error:  # Ray raises plain Exception where one of its processes does not start
                kind = type(error).__name__
                if address is None:
                    raise UsageError(
                        f"Ray could not be started on this computer ({kind}); use --engine local, or start Ray with "
                        "`ray start --head` to see why."
                    ) from None
                raise UsageError(
                    f"The Ray cluster at {address} does not answer ({kind}); check --ray-address."
                ) from None

    def run(self, films: Iterable[PlannedFilm]) -> Iterator[FilmRows | None]:
        """The rows of each film, in order of completion, and None while there are none; see `LocalEngine.run`."""
        actor_class: Any = self._ray.remote(num_cpus=1)(FilmActor)
        idle: list[Any] = [actor_class.remote(self._task) for _ in range(self._number)]
        waiting, again = iter(films), list[PlannedFilm]()
        running = dict[Any, tuple[Any, PlannedFilm]]()
        deaths: dict[str, int] = {}
        deaths_in_a_row = 0
        try:
            while self._stop() < 2:
                while idle and not self._stop() and (film := again.pop() if again else next(waiting, None)) is not None:
                    actor = idle.pop()
                    running[actor.grade.remote(film)] = actor, film
                if not running:
                    return
                done, _ = self._ray.wait(list(running), timeout=POLL_SECONDS)
                for reference in done:
                    actor, film = running.pop(reference)
                    rows = self._rows(reference)
                    idle.append(actor if rows else actor_class.remote(self._task))
                    deaths_in_a_row = 0 if rows else deaths_in_a_row + 1
                    if deaths_in_a_row >= MAX_DEATHS:
                        raise KneeGradeError(f"{MAX_DEATHS} actors died in a row; check the memory of the cluster.")
                    yield self._outcome(film, rows, deaths, again)
                if not done:
                    yield None
        finally:
            for actor in [*idle, *(actor for actor, _ in running.values())]:
                self._ray.kill(actor)

    def _rows(self, reference: Any) -> FilmRows | None:
        """The rows of a film, or None if the actor died.

        Raises:
            KneeGradeError: the networks cannot be loaded.
        """
        try:
            rows: FilmRows = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KneeGradeError):
                raise error.cause from None
            raise KneeGradeError(f"A task of Ray failed ({type(error.cause).__name__}).") from None
        except self._ray.exceptions.RayActorError:
            return None
        return rows

    def _outcome(
        self, film: PlannedFilm, rows: FilmRows | None, deaths: dict[str, int], again: list[PlannedFilm]
    ) -> FilmRows | None:
        before = deaths.get(film.source.name, 0)
        if rows is not None:
            return replace(rows, log=rows.log | {"attempts": before + 1}) if before else rows
        deaths[film.source.name] = before + 1
        if before + 1 < DEATHS:
            again.append(film)
            return None
        return failed_rows(film, _DIED, DEATHS)
