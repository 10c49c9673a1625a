"""`RayEngine`: films → rows on a Ray cluster, by actors that run the same task as the local workers.

An actor has one processor and loads the networks once. Films go only to actors that have loaded them: those for which
the cluster has no room wait, and take part as soon as there is room. An actor that dies, perhaps with its computer, or
exceeds the time limit of a film is replaced. `retries` decides what becomes of the film.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kneegrade.batch.local_engine import FilmWork
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.retries import FILM_SECONDS, MAX_DEATHS, WORKER_MEMORY, Death, film_limit, grade_films
from kneegrade.batch.rows import FilmRows
from kneegrade.errors import KneeGradeError, UsageError

POLL_SECONDS: Final = 0.5
START_SECONDS: Final = 900.0  # without any actor, after which the run ends; a cluster may have to start computers
GPU_SHARE: Final = 0.25  # of a GPU for each actor: decoding, on processors, takes longer than the networks


class FilmActor:
    """A process of the cluster that holds the networks."""

    def __init__(self, task: FilmWork) -> None:
        self._error: KneeGradeError | None = None
        try:
            self._grade = task.start()
        except KneeGradeError as error:  # Ray would hide it behind the death of the actor
            self._error = error

    def is_ready(self) -> bool:
        """True, after the networks were loaded.

        Raises:
            KneeGradeError: they could not be loaded.
        """
        if self._error is not None:
            raise self._error
        return True

    def grade(self, film: PlannedFilm) -> FilmRows:
        """The rows of a film."""
        return self._grade(film)


@dataclass(frozen=True)
class _FilmInWork:
    actor: Any
    film: PlannedFilm
    deadline: float  # of time.monotonic


class RayEngine:
    """Runs a task in actors of a Ray cluster.

    Args:
        task: what an actor does.
        workers: number of actors, with one processor each.
        stop: number of signals to stop that have arrived.
        address: of a running cluster, for example "auto"; None starts Ray on this computer.
        uses_gpu: whether each actor needs a share of a GPU.
        film_seconds: time limit for one film, without its download.
        start_seconds: the run ends when there was no actor for so long.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(
        self, task: FilmWork, *, workers: int, stop: StopCount = lambda: 0, address: str | None = None,
        uses_gpu: bool = False, film_seconds: float = FILM_SECONDS, start_seconds: float = START_SECONDS,
    ) -> None:  # fmt: skip
        self._ray = _connected_ray(workers, address)
        self._task, self._number, self._stop = task, workers, stop
        self._film_seconds, self._start_seconds = film_seconds, start_seconds
        self._actor_class: Any = self._ray.remote(num_cpus=1, num_gpus=GPU_SHARE if uses_gpu else 0)(FilmActor)
        self._starting: dict[Any, Any] = {}  # reference to `is_ready` → actor
        self._idle: list[Any] = []
        self._running: dict[Any, _FilmInWork] = {}  # reference to the rows → film
        self._failed_starts = 0  # in a row
        self._last_actor = time.monotonic()  # when there was one that had loaded the networks

    def run(self, films: Iterable[PlannedFilm]) -> Iterator[FilmRows | None]:
        """The rows of each film; see `grade_films`.

        Raises:
            KneeGradeError: actors cannot be started, or die one after the other.
        """
        return grade_films(self, films, number=self._number, stop=self._stop, film_seconds=self._film_seconds)

    def outcomes(self, films: Iterator[PlannedFilm], number: int) -> Iterator[FilmRows | Death | None]:
        """The outcome of each film; see `retries.Workers`.

        Raises:
            KneeGradeError: the networks cannot be loaded, too many actors have died before they had loaded them, or
                the cluster has no room for any actor.
        """
        film: PlannedFilm | None = None
        self._last_actor = time.monotonic()
        while self._stop() < 2:
            while not self._stop() and (film := film or next(films, None)) is not None:
                self._start_actors(number)
                if not self._idle:
                    break
                self._give(self._idle.pop(), film)
                film = None
            if not self._running and (film is None or self._stop()):
                return
            outcome = None
            for outcome in self._finished():
                yield outcome
            if outcome is None:
                yield None

    def _start_actors(self, number: int) -> None:
        """Start actors until there are so many, those that wait for room included."""
        for _ in range(number - len(self._starting) - len(self._idle) - len(self._running)):
            actor = self._actor_class.remote(self._task)
            self._starting[actor.is_ready.remote()] = actor

    def _give(self, actor: Any, film: PlannedFilm) -> None:
        deadline = time.monotonic() + film_limit(film, self._film_seconds)
        self._running[actor.grade.remote(film)] = _FilmInWork(actor, film, deadline)

    def _finished(self) -> Iterator[FilmRows | Death]:
        """What became of films since the last call; waits a moment for something."""
        done, _ = self._ray.wait([*self._starting, *self._running], timeout=POLL_SECONDS)
        for reference in done:
            result = self._result(reference)
            if reference in self._starting:
                self._started(self._starting.pop(reference), is_ready=result is not None)
                continue
            work = self._running.pop(reference)
            if result is None:
                self._ray.kill(work.actor)  # it may only be out of reach
                yield Death(work.film, expired=False)
            else:
                self._idle.append(work.actor)
                yield result
        now = time.monotonic()
        for reference, work in list(self._running.items()):
            if now > work.deadline:
                del self._running[reference]
                self._ray.kill(work.actor)
                yield Death(work.film, expired=True)
        self._check_room(now)

    def _started(self, actor: Any, *, is_ready: bool) -> None:
        if is_ready:
            self._idle.append(actor)
            self._failed_starts = 0
            return
        self._failed_starts += 1
        limit = max(MAX_DEATHS, 2 * self._number)  # a computer that is lost takes many actors with it
        if self._failed_starts >= limit:
            raise KneeGradeError(
                f"{limit} actors of Ray in a row died before they had loaded the networks. Check that each node has "
                f"the same versions of kneegrade and Python, and memory for its actors: each needs {WORKER_MEMORY}.",
                code="workers_died",
            )

    def _check_room(self, now: float) -> None:
        """Raises a KneeGradeError if there was no actor for too long."""
        if self._idle or self._running:
            self._last_actor = now
        elif now - self._last_actor > self._start_seconds:
            known = self._ray.cluster_resources()
            raise KneeGradeError(
                f"No actor could be started on the Ray cluster in {self._start_seconds:g} s. The cluster has "
                f"{known.get('CPU', 0):g} processors and {known.get('GPU', 0):g} GPUs; other programs may use them. "
                "Run again when there is room, or see `ray status`.",
                code="no_workers",
            )

    def _result(self, reference: Any) -> Any | None:
        """What an actor has returned, or None if it died.

        Raises:
            KneeGradeError: the networks cannot be loaded.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KneeGradeError):
                raise error.cause from None
            raise KneeGradeError(f"A task of Ray failed ({type(error.cause).__name__}).") from None
        except self._ray.exceptions.RayError:  # the actor, its computer or its rows are lost
            return None

    def end(self) -> None:
        """End all actors, also those in the middle of a film."""
        for actor in [*self._starting.values(), *self._idle, *(work.actor for work in self._running.values())]:
            self._ray.kill(actor)
        self._starting, self._idle, self._running = {}, [], {}


def _connected_ray(workers: int, address: str | None) -> Any:
    """The module `ray`, connected to a cluster or to one started on this computer.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to a server otherwise
    try:
        import ray
    except ImportError:
        raise UsageError('The engine "ray" needs the package ray: pip install "kneegrade[ray]"') from None
    if ray.is_initialized():
        return ray
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    try:
        with _kept_sigterm():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises plain Exception where one of its processes does not start
        kind = type(error).__name__
        if address is None:
            raise UsageError(
                f"Ray could not be started on this computer ({kind}); use --engine local, or start Ray with "
                "`ray start --head` to see why."
            ) from None
        raise UsageError(f"The Ray cluster at {address} does not answer ({kind}); check --ray-address.") from None
    return ray


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """The handler of SIGTERM is afterwards as before: Ray sets one that ends the program at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
