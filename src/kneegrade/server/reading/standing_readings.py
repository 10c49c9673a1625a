"""Which reading of a film stands, where several readers have finished one.

That is the adjudication of a study, else the reading that all readers share, else what all readers of a study agree on
once all of them have read the film; a study that still waits for a reader does not hold up another one. A shared
reading that only confirms the results of kneegrade does not replace blind readings.
"""

from collections.abc import Container
from typing import Protocol, runtime_checkable

from kneegrade.server.reading.reading_comparison import (
    agreed_reading,
    finished_readings,
    is_finished,
    machine_reading,
    readers_of,
    same_grades,
)
from kneegrade.server.reading.reading_desk import ReadingStore
from kneegrade.server.reading.review_log import ADJUDICATION, Review, Stream


@runtime_checkable
class RecordsReaders(Protocol):
    """A store that knows the readers of studies."""

    def study_readers(self, name: str) -> tuple[str, ...]:
        """The readers of a study, as far as they are recorded."""


def standing_readings(store: ReadingStore) -> dict[str, Review]:
    """Key of a film → the finished reading that stands for it; without films that no study has completely read."""
    store.log.refresh()
    newest = store.log.streams()
    by_film: dict[str, list[tuple[Stream, Review]]] = {}
    for stream, review in newest.items():
        if is_finished(review) and stream.repeat == 0:
            by_film.setdefault(stream.film, []).append((stream, review))
    waiting: dict[str, set[str]] = {}  # film → studies
    for (study, _), films in waiting_films(store).items():
        for film in films:
            waiting.setdefault(film, set()).add(study)
    standing = {film: _standing(store, own, waiting.get(film, ())) for film, own in by_film.items()}
    return {film: review for film, review in standing.items() if review is not None}


def waiting_films(store: ReadingStore) -> dict[tuple[str, str], set[str]]:
    """(study, reader) → films that other readers of the study have read, but not this one."""
    newest, found = store.log.streams(), dict[tuple[str, str], set[str]]()
    for study in sorted({stream.study for stream in newest} - {""}):
        read = finished_readings(newest, study)
        recorded = store.study_readers(study) if isinstance(store, RecordsReaders) else ()
        for reader in sorted(readers_of(recorded, read)):
            missing = {film for film, own in read.items() if reader not in own}
            if missing:
                found[study, reader] = missing
    return found


def _standing(store: ReadingStore, readings: list[tuple[Stream, Review]], waiting: Container[str]) -> Review | None:
    """The reading of a film that stands; None if there is none but in `waiting` studies."""
    decided = [review for stream, review in readings if stream.reader == ADJUDICATION]
    shared = [review for stream, review in readings if not stream.study]
    blind = [(stream, review) for stream, review in readings if stream.study and stream.reader != ADJUDICATION]
    if decided:
        return max(decided, key=lambda review: review.time)
    if shared and not (blind and _only_confirms(store, shared[0])):
        return shared[0]
    blind = [(stream, review) for stream, review in blind if stream.study not in waiting]
    if not blind:
        return None
    latest = max((review for _, review in blind), key=lambda review: review.time)
    names = "+".join(sorted(stream.reader for stream, _ in blind))
    agreed = {**agreed_reading([review.reading for _, review in blind]), "status": latest.reading["status"]}
    return Review(latest.stream, latest.revision, names, latest.time, latest.source, agreed)


def _only_confirms(store: ReadingStore, review: Review) -> bool:
    """True if a reading that is not signed gives the results of kneegrade."""
    try:
        machine = machine_reading(store.film(review.stream.film))
    except KeyError:
        return False
    return review.reading["status"] == "read" and same_grades(review.reading, machine)
