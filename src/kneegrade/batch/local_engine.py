"""`LocalEngine`: films → rows on the processors of this computer, in worker processes that may die.

Films go to the workers one at a time. When a worker dies or exceeds the time limit, another one is started, and the
film waits for the end of the run, when it is tried again alone: another film or a lack of memory may have been the
cause. Only a film on which a worker died twice while no other film was in work gets a row with this reason.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Final

from kneegrade.batch.film_task import failed_rows
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.rows import FilmRows
from kneegrade.batch.worker import Task, Worker
from kneegrade.errors import KneeGradeError
from kneegrade.results import Finding

FILM_SECONDS: Final = 300.0  # for one film; its decoding has a limit of its own
DEATHS_ALONE: Final = 2  # after which a film is blamed
MAX_DEATHS: Final = 10  # of workers in a row without a finished film, after which the run ends
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
        film_seconds: time limit for one film.
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
        self._deaths_in_a_row = 0

    def run(self, films: Iterable[PlannedFilm]) -> Iterator[FilmRows | None]:
        """The rows of each film, in order of completion, and None at least every few seconds while there are none.

        After the first signal, only films under way are finished; after the second one, none. The films without rows
        are left to another run. Close the iterator to stop the workers.

        Raises:
            KneeGradeError: workers cannot be started, or die one after the other.
        """
        suspects = deque[PlannedFilm]()
        try:
            for outcome in self._outcomes(iter(films), self._number):
                if isinstance(outcome, PlannedFilm):
                    suspects.append(outcome)
                else:
                    yield outcome
            self._end()  # what is tried alone is tried in new processes
            while suspects and not self._stop():
                yield from self._alone(suspects.popleft())
        finally:
            self._end()

    def _alone(self, film: PlannedFilm) -> Iterator[FilmRows | None]:
        """The rows of a film on which a worker has died, while no other film is in work."""
        for attempt in range(1, DEATHS_ALONE + 1):
            died = False
            for outcome in self._outcomes(iter([film]), 1):
                if isinstance(outcome, PlannedFilm):
                    died = True
                else:
                    yield outcome and replace(outcome, log=outcome.log | {"attempts": attempt + 1})
            if not died or self._stop() > 1:
                return
        self._deaths_in_a_row = 0
        reason = Finding(
            "worker_died",
            f"The process that graded this film died or exceeded {self._film_seconds:g} s {1 + DEATHS_ALONE} times, "
            "the last ones while no other film was graded. Grade it on a computer with more memory, and report it.",
        )
        yield failed_rows(film, reason, 1 + DEATHS_ALONE)

    def _outcomes(self, films: Iterator[PlannedFilm], number: int) -> Iterator[FilmRows | PlannedFilm | None]:
        """The rows of each film or, if a worker died on it, the film; None while there is nothing."""
        while True:
            while not self._stop() and sum(worker.film is not None for worker in self._workers) < number:
                film = self._returned.popleft() if self._returned else next(films, None)
                if film is None:
                    break
                self._free_worker().give(film)
            busy = {worker.connection: worker for worker in self._workers if worker.film is not None}
            if not busy or self._stop() > 1:
                return
            ready = [one for one in wait(list(busy), POLL_SECONDS) if isinstance(one, Connection)]
            for connection in ready:
                yield self._outcome(busy[connection])
            for worker in busy.values():
                if worker.has_expired and worker in self._workers:
                    yield self._died(worker)
            if not ready:
                yield None

    def _free_worker(self) -> FilmWorker:
        """A worker without a film, started if there is none."""
        for worker in [one for one in self._workers if one.film is None]:
            if worker.films < self._films_per_worker:
                return worker
            self._workers.remove(worker)
            worker.let_go()
            worker.wait()
        worker = FilmWorker(self._task, self._film_seconds)
        self._workers.append(worker)
        return worker

    def _outcome(self, worker: FilmWorker) -> FilmRows | PlannedFilm | None:
        try:
            rows = worker.answer()
        except EOFError:
            return self._died(worker, grace_seconds=1.0)
        if rows is not None:
            self._deaths_in_a_row = 0
        return rows

    def _died(self, worker: FilmWorker, grace_seconds: float = 0.0) -> PlannedFilm | None:
        """The film on which a worker has died or exceeded its time; None if it had not loaded the networks yet.

        Raises:
            KneeGradeError: too many have died.
        """
        self._workers.remove(worker)
        status, film = worker.kill(grace_seconds), worker.film
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= MAX_DEATHS:
            raise KneeGradeError(
                f"{MAX_DEATHS} worker processes died in a row (the last one with exit status {status}), so the run was "
                "ended. Most often the memory is not enough: each worker needs about 1 GB; use a smaller number with "
                "--workers. The same command goes on where this run ended.",
                code="workers_died",
            )
        if not worker.is_ready and film is not None:  # not the film's fault
            self._returned.append(film)
            return None
        return film

    def _end(self) -> None:
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
