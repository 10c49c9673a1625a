"""`run_worker`: grades the films of the spool in worker processes until SIGTERM.

This process claims films, gives them to its workers (`batch.worker`) and enters what became of them. It reads no film,
so that no film can end it. A film whose worker dies or exceeds the time limit is tried again later; after
`MAX_ATTEMPTS` it is dead.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Final

from kneegrade.batch.worker import Task, Worker
from kneegrade.errors import KneeGradeError
from kneegrade.server.settings import ServeSettings
from kneegrade.server.spool.film_spool import ClaimedFilm, Spool, SpoolError
from kneegrade.server.spool_task import SpoolOutcome, SpoolTask

POLL_SECONDS: Final = 0.2  # between two looks for films and signals
STOP_SECONDS: Final = 4.0  # for films in work, after SIGTERM
PAUSE_SECONDS: Final = 5.0  # after an error of the spool
FILMS_PER_WORKER: Final = 2000  # after which a worker is replaced, so that no library can fill the memory
MAX_DEATHS: Final = 5  # of workers in a row that had not loaded the networks
WORKER_DIED: Final = "worker_died: The process that graded this film ended or exceeded its time."
STOPPED: Final = "The service was stopped while the film was graded."
FilmProcess = Worker[ClaimedFilm, SpoolOutcome]
_log = logging.getLogger(__name__)


class FilmWorkers:
    """The worker processes.

    Args:
        settings: of the service.
        spool: with the films.
        task: what a worker does.
    """

    def __init__(self, settings: ServeSettings, spool: Spool, task: Task[ClaimedFilm, SpoolOutcome]) -> None:
        self._settings, self._spool, self._task = settings, spool, task
        self._workers: list[FilmProcess] = []
        self._deaths = 0
        self._is_stopping = False
        self._outcomes = deque[tuple[ClaimedFilm, SpoolOutcome]]()  # that are not entered in the spool yet
        self._postponed = deque[tuple[float, ClaimedFilm]]()  # with the time at which they are tried again

    def run_until(self, stopped: Callable[[], bool]) -> None:
        """Grade films until `stopped`; films in work then get a few seconds.

        Raises:
            KneeGradeError: the networks cannot be loaded.
        """
        try:
            while not stopped():
                try:
                    self._step()
                except SpoolError as error:
                    _log.error("Grading pauses: %s", error.message)
                    self._wait(PAUSE_SECONDS, stopped)
            self._finish_films()
            self._enter_outcomes()
        finally:
            for worker in self._workers:
                worker.kill()

    def _step(self) -> None:
        """Give films to free workers, and enter what the others have finished."""
        self._enter_outcomes()
        while len(self._workers) < self._settings.grading.workers:
            self._workers.append(FilmProcess(self._task, self._settings.grading.film_seconds))
        for worker in self._workers:
            self._give(worker)
        self._collect(POLL_SECONDS)

    def _give(self, worker: FilmProcess) -> None:
        if self._is_stopping or worker.film is not None or not worker.is_ready:
            return
        if self._postponed and self._postponed[0][0] < time.monotonic():
            worker.give(self._postponed.popleft()[1])
        elif (film := self._spool.claim()) is not None:
            worker.give(film)

    def _collect(self, seconds: float) -> None:
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), seconds):
            if isinstance(connection, Connection):
                self._answered(by_connection[connection])
        for worker in list(by_connection.values()):
            if worker in self._workers and worker.has_expired:
                self._died(worker)

    def _answered(self, worker: FilmProcess) -> None:
        film = worker.film
        try:
            outcome = worker.answer()
        except EOFError:
            self._died(worker)
            return
        self._deaths = 0
        self._replace_if_old(worker)
        if outcome is not None and film is not None:
            self._outcomes.append((film, outcome))
        if worker in self._workers:
            self._give(worker)  # first: the worker need not wait for the disk
        self._enter_outcomes()

    def _enter_outcomes(self) -> None:
        """Enter what became of films; what the spool cannot take now stays for later."""
        while self._outcomes:
            self._enter(*self._outcomes[0])
            self._outcomes.popleft()

    def _enter(self, film: ClaimedFilm, outcome: SpoolOutcome) -> None:
        if outcome.problem is None:
            self._spool.finish(film.key, deliveries=self._settings.deliveries(outcome.files))
            _log.info("Graded the film %s in %.1f s since it arrived.", film.key, time.time() - film.received)
        elif outcome.is_postponed:
            self._postponed.append((time.monotonic() + PAUSE_SECONDS, film))
            _log.error("The film %s waits: %s", film.key, outcome.problem)
        else:
            self._spool.fail(film.key, reason=outcome.problem, is_final=outcome.is_final)
            _log.warning("The film %s was not graded (attempt %d): %s", film.key, film.attempts, outcome.problem)

    def _replace_if_old(self, worker: FilmProcess) -> None:
        if worker.films >= FILMS_PER_WORKER:
            self._workers.remove(worker)
            worker.let_go()
            worker.wait()

    def _died(self, worker: FilmProcess) -> None:
        """Enter the death of a worker; it is replaced in the next step.

        Raises:
            KneeGradeError: too many died before they had loaded the networks.
        """
        self._workers.remove(worker)
        status = worker.kill(grace_seconds=0.5)
        if worker.film is not None:
            self._outcomes.append((worker.film, SpoolOutcome(problem=WORKER_DIED)))
        _log.error("A worker process ended with status %d.", status)
        if not worker.is_ready:
            self._deaths += 1
            if self._deaths >= MAX_DEATHS:
                raise KneeGradeError(
                    f"{MAX_DEATHS} worker processes ended before they could grade (last status: {status}). Most "
                    "often the memory is not enough: each needs about 1 GB; set a smaller number of grading.workers.",
                    code="workers_died",
                )

    def _finish_films(self) -> None:
        """Wait a few seconds for films in work; the others are received again."""
        end = time.monotonic() + STOP_SECONDS
        self._is_stopping = True
        while any(worker.film is not None for worker in self._workers) and (left := end - time.monotonic()) > 0:
            self._collect(min(left, POLL_SECONDS))
        left_over = [worker.film for worker in self._workers if worker.film is not None]
        for film in [*left_over, *(film for _, film in self._postponed)]:
            self._spool.fail(film.key, reason=STOPPED)

    def _wait(self, seconds: float, stopped: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not stopped() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)


def run_worker(settings: ServeSettings, spool: Spool) -> None:
    """Grade the films of a spool until SIGTERM.

    Raises:
        KneeGradeError: the networks cannot be loaded, or too many workers died.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    institution = settings.results.institution or None
    task = SpoolTask(settings.spool.directory, settings.grading, settings.objects, institution)
    FilmWorkers(settings, spool, task).run_until(stopped.is_set)
