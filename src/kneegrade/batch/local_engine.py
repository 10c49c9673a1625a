"""`LocalEngine`: films → rows on the processors of this computer, in worker processes that may die.

Films go to the workers one at a time. When a worker dies or exceeds the time limit, another one is started. `retries`
decides what becomes of the film.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Final

from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.retries import FILM_SECONDS, MAX_DEATHS, WORKER_MEMORY, Death, film_limit, grade_films
from kneegrade.batch.rows import FilmRows
from kneegrade.batch.worker import Task, Worker
from kneegrade.errors import KneeGradeError

POLL_SECONDS: Final = 0.2  # between two looks at the signals
FILMS_PER_WORKER: Final = 2000  # after which a worker is replaced, so that no library can fill the memory

FilmWork = Task[PlannedFilm, FilmRows]
FilmWorker = Worker[PlannedFilm, FilmRows]


class LocalEngine:
    """Runs a task in worker processes.

    Args:
        task: what a worker does.
        workers: number of processes.
        stop: number of signals to stop that have arrived.
        film_seconds: time limit for one film, without its download.
        films_per_worker: after so many films a worker is replaced.
    """

    def __init__(
        self, task: FilmWork, *, workers: int, stop: StopCount = lambda: 0, film_seconds: float = FILM_SECONDS,
        films_per_worker: int = FILMS_PER_WORKER,
    ) -> None:  # fmt: skip
        self._task = task
        self._number = workers
        self._stop = stop
        self._film_seconds = film_seconds
        self._films_per_worker = films_per_worker
        self._workers: list[FilmWorker] = []
        self._returned = deque[PlannedFilm]()  # films of workers that died before they were ready
        self._failed_starts = 0  # in a row

    def run(self, films: Iterable[PlannedFilm]) -> Iterator[FilmRows | None]:
        """The rows of each film; see `grade_films`.

        Raises:
            KneeGradeError: workers cannot be started, or die one after the other.
        """
        return grade_films(self, films, number=self._number, stop=self._stop, film_seconds=self._film_seconds)

    def outcomes(self, films: Iterator[PlannedFilm], number: int) -> Iterator[FilmRows | Death | None]:
        """The outcome of each film; see `retries.Workers`.

        Raises:
            KneeGradeError: the networks cannot be loaded, or too many workers have died before they had loaded them.
        """
        while True:
            while not self._stop() and sum(worker.film is not None for worker in self._workers) < number:
                film = self._returned.popleft() if self._returned else next(films, None)
                if film is None:
                    break
                self._free_worker().give(film, film_limit(film, self._film_seconds))
            busy = {worker.connection: worker for worker in self._workers if worker.film is not None}
            if not busy or self._stop() > 1:
                return
            ready = [one for one in wait(list(busy), POLL_SECONDS) if isinstance(one, Connection)]
            for connection in ready:
                yield self._outcome(busy[connection])
            for worker in busy.values():
                if worker.has_expired and worker in self._workers:
                    yield self._died(worker, expired=True)
            if not ready:
                yield None

    def _free_worker(self) -> FilmWorker:
        """A worker without a film, started if there is none."""
        for worker in [one for one in self._workers if one.film is None]:
            if worker.films < self._films_per_worker and not worker.has_ended:
                return worker
            self._workers.remove(worker)
            worker.let_go()
            worker.wait()
        worker = FilmWorker(self._task, self._film_seconds)
        self._workers.append(worker)
        return worker

    def _outcome(self, worker: FilmWorker) -> FilmRows | Death | None:
        try:
            rows = worker.answer()
        except EOFError:
            return self._died(worker, grace_seconds=1.0)
        self._failed_starts = 0
        return rows

    def _died(self, worker: FilmWorker, *, expired: bool = False, grace_seconds: float = 0.0) -> Death | None:
        """The death of a worker on its film; None if it had not loaded the networks yet.

        Raises:
            KneeGradeError: too many have died before they had loaded the networks.
        """
        self._workers.remove(worker)
        status, film = worker.kill(grace_seconds), worker.film
        if worker.is_ready and film is not None:
            return Death(film, expired)
        if film is not None:  # not the film's fault
            self._returned.append(film)
        self._failed_starts += 1
        if self._failed_starts >= MAX_DEATHS:
            raise KneeGradeError(
                f"{MAX_DEATHS} worker processes in a row died before they had loaded the networks (the last one with "
                f"exit status {status}), so the run was ended. Most often the memory is not enough: each worker needs "
                f"{WORKER_MEMORY}; use a smaller number with --workers. The same command goes on where this run ended.",
                code="workers_died",
            )
        return None

    def end(self) -> None:
        """End all workers; those in the middle of a film are killed."""
        idle = [worker for worker in self._workers if worker.film is None]
        for worker in idle:
            worker.let_go()
        for worker in self._workers:
            if worker not in idle:
                worker.kill()
        for worker in idle:
            worker.wait()
        self._workers = []
