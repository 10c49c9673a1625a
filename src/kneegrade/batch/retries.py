"""`grade_films`: films → rows by workers that may die; it decides which film is to blame, on every engine.

A film on which a worker died, or that exceeded the time limit, waits for the end of the round, when it is tried again
alone: another film or a lack of memory may have been the cause. Only a film on which a worker died twice while no other
film was in work gets a row with this reason. A round ends with the films, or when many workers in a row have died: a
few films that kill their workers then get their rows, and the next round goes on.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

from kneegrade.batch.film_task import failed_rows, is_remote
from kneegrade.batch.plan import PlannedFilm, StopCount
from kneegrade.batch.rows import FilmRows
from kneegrade.errors import KneeGradeError
from kneegrade.results import Finding

FILM_SECONDS: Final = 300.0  # for one film; its decoding has a limit of its own
REMOTE_SECONDS: Final = 1800.0  # in addition, to download a film and to store its results
DEATHS_ALONE: Final = 2  # after which a film is blamed
MAX_DEATHS: Final = 10  # in a row, or two of each worker if that is more, after which a round ends
WORKER_MEMORY: Final = "0.7 GB, more for films of many megapixels"


@dataclass(frozen=True)
class Death:
    """The end of a worker in the middle of a film.

    Attributes:
        film: that it worked on.
        expired: whether it was killed because the film exceeded its time limit.
    """

    film: PlannedFilm
    expired: bool


class Workers(Protocol):
    """The workers of an engine."""

    def outcomes(self, films: Iterator[PlannedFilm], number: int) -> Iterator[FilmRows | Death | None]:
        """The outcome of each film, in order of completion, and None at least every few seconds while there is none.

        After the first signal to stop, no film is begun; after the second one, the films in work are given up.

        Args:
            films: to grade; the next one is taken when a worker is free.
            number: of films that may be in work at a time.
        """

    def end(self) -> None:
        """End all workers; those in the middle of a film are killed."""


def film_limit(film: PlannedFilm, film_seconds: float) -> float:
    """Time limit of a film in seconds; one from a store or an archive has more, for its download."""
    return film_seconds + (REMOTE_SECONDS if is_remote(film) else 0.0)


def grade_films(
    workers: Workers, films: Iterable[PlannedFilm], *, number: int, stop: StopCount, film_seconds: float
) -> Iterator[FilmRows | None]:
    """The rows of each film, in order of completion, and None at least every few seconds while there are none.

    After the first signal, only films under way are finished; after the second one, none. The films without rows are
    left to another run. Close the iterator to stop the workers.

    Args:
        workers: that grade the films.
        films: to grade.
        number: of workers.
        stop: number of signals to stop that have arrived.
        film_seconds: time limit for one film, without its download.

    Raises:
        KneeGradeError: workers cannot be started, or die one after the other without a film that is to blame.
    """
    waiting, deaths, is_last, limit = iter(films), 0, False, max(MAX_DEATHS, 2 * number)

    def round_of_films() -> Iterator[PlannedFilm]:
        nonlocal is_last
        while deaths < limit:
            film = next(waiting, None)
            if film is None:
                is_last = True
                return
            yield film

    try:
        while not is_last and not stop():
            deaths, suspects = 0, deque[PlannedFilm]()
            for outcome in workers.outcomes(round_of_films(), number):
                if isinstance(outcome, Death):
                    deaths += 1
                    suspects.append(outcome.film)
                    continue
                deaths = deaths if outcome is None else 0
                yield outcome
            some_blamed = False
            while suspects and not stop():
                blamed = yield from _alone(workers, suspects.popleft(), stop, film_seconds)
                some_blamed |= blamed
            if deaths >= limit and not some_blamed and not stop() and next(waiting, None) is not None:
                raise _deaths_without_cause(deaths)
    finally:
        workers.end()


def _alone(
    workers: Workers, film: PlannedFilm, stop: StopCount, film_seconds: float
) -> Generator[FilmRows | None, None, bool]:
    """Yields the rows of a film on which a worker has died, while no other film is in work; whether it is to blame.

    A film is not to blame if it cannot be read at all: its disk or server does not answer.
    """
    expired = True
    workers.end()  # a film is blamed for the death of new processes only
    for attempt in range(1, DEATHS_ALONE + 1):
        death = None
        for outcome in workers.outcomes(iter([film]), 1):
            if isinstance(outcome, Death):
                death = outcome
            else:
                yield outcome and replace(outcome, log=outcome.log | {"attempts": attempt + 1})
        if death is None or stop() > 1:
            return False
        expired &= death.expired
    rows = failed_rows(film, _reason(film, film_seconds, expired=expired), 1 + DEATHS_ALONE)
    yield rows
    return not expired or rows.film["sha256"] is not None


def _reason(film: PlannedFilm, film_seconds: float, *, expired: bool) -> Finding:
    number = 1 + DEATHS_ALONE
    if expired:
        return Finding(
            "worker_timeout",
            f"The process that graded this film was ended {number} times; the last times, no other film was graded and "
            f"it took more than {film_limit(film, film_seconds):g} s. If the disk or server with the film answers, "
            "report the film.",
        )
    return Finding(
        "worker_died",
        f"The process that graded this film died or took too long {number} times, the last times while no other film "
        "was graded. Grade it on a computer with more memory, and report it.",
    )


def _deaths_without_cause(number: int) -> KneeGradeError:
    return KneeGradeError(
        f"{number} worker processes in a row died or exceeded the time limit, and no film is to blame: alone, these "
        f"films were graded or could not be read. Most often the memory is not enough (each worker needs "
        f"{WORKER_MEMORY}); use a smaller number with --workers. Or the disk or server with the films does not answer. "
        "The same command goes on where this run ended.",
        code="workers_died",
    )
