"""`ReadingDesk`: the worklist and the films as one reader sees them, in one of three modes.

- "shared": all readers correct the same reading of a film, which starts as that of kneegrade.
- "blind": each reader of a study grades alone, without the results of kneegrade, until the reading is finished.
- "adjudicate": the films of a study that all its readers have read and on which they differ, with what each of them
  read. The results of kneegrade are hidden until the film is decided.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.shape_following import model_to_film
from kneegrade.errors import KneeGradeError
from kneegrade.server.reading.blind_study import Study
from kneegrade.server.reading.reading_comparison import (
    agreed_reading,
    differing_films,
    finished_readings,
    is_finished,
    machine_reading,
    readers_of,
)
from kneegrade.server.reading.reading_film import FilmContent, FilmResults, ListedFilm
from kneegrade.server.reading.review import (
    IncompleteError,
    Reading,
    check_complete,
    is_withdrawal,
    merge,
    with_all_knees,
)
from kneegrade.server.reading.review_log import ADJUDICATION, SIGNED, ConflictError, Review, ReviewLog, Stream
from kneegrade.server.reading.worklist_rows import adjudication_row, blind_row, shared_row

Mode = Literal["shared", "blind", "adjudicate"]

Json = dict[str, Any]


class ReadingStore(Protocol):
    """Films with results, and the log of their readings."""

    log: ReviewLog

    @property
    def title(self) -> str:
        """Name for the page."""

    def worklist(self) -> list[ListedFilm]:
        """All films."""

    def listed(self, key: str) -> ListedFilm:
        """The entry of a film; raises KeyError if there is none."""

    def film(self, key: str) -> FilmResults:
        """The results of a film; raises KeyError if there is none."""

    def content(self, key: str) -> FilmContent:
        """The file of a film; raises KeyError or KneeGradeError."""


class FinishedError(KneeGradeError):
    """The reading of a study is finished and the results were shown. Remedy: adjudicate."""

    default_code = "finished"


class SignedError(KneeGradeError):
    """The reading is signed. Remedy: withdraw the signature first, by the same reading as a draft."""

    default_code = "signed"


class HiddenError(KneeGradeError):
    """The results of kneegrade are hidden until the reading is finished. Remedy: finish it."""

    default_code = "hidden"


@dataclass(frozen=True)
class ReadingDesk:
    """What readers see and decide.

    Attributes:
        store: films and log.
        study: of the modes "blind" and "adjudicate"; None in the mode "shared".
        adjudicate: whether the readers of the study are compared.
    """

    store: ReadingStore
    study: Study | None = None
    adjudicate: bool = False

    @property
    def mode(self) -> Mode:
        """See the module."""
        return "shared" if self.study is None else "adjudicate" if self.adjudicate else "blind"

    def stream(self, key: str, reader: str, repeat: int = 0) -> Stream:
        """The stream to which the reader's readings of a film belong."""
        if self.study is None:
            return Stream(key)
        return Stream(
            key, self.study.name, ADJUDICATION if self.adjudicate else reader, 0 if self.adjudicate else repeat
        )

    def worklist(self, reader: str) -> Json:
        """Title, mode and films; in the mode "blind" in the reader's order, without names and results."""
        self.store.log.refresh()
        newest, waiting = self.store.log.streams(), list[Json]()
        if self.study is None:
            films = self._shared_rows(newest)
        elif self.adjudicate:
            films, waiting = self._adjudication_rows(newest), self.unfinished()
        else:
            films = [
                blind_row(number, key, repeat, newest.get(self.stream(key, reader, repeat)))
                for number, (key, repeat) in enumerate(self.study.order(reader), start=1)
            ]
        name = None if self.study is None else self.study.name
        return {
            "title": self.store.title, "mode": self.mode, "study": name, "reader": reader, "films": films,
            "waiting": waiting,
        }  # fmt: skip

    def unfinished(self) -> list[Json]:
        """The readers of the study who have not finished: name, finished readings, and all readings."""
        if self.study is None:
            return []
        newest, found = self.store.log.streams(), list[Json]()
        for reader in sorted(readers_of(self.study.readers, finished_readings(newest, self.study.name))):
            order = self.study.order(reader)
            done = sum(is_finished(newest.get(Stream(key, self.study.name, reader, n))) for key, n in order)
            if done < len(order):
                found.append({"reader": reader, "done": done, "total": len(order)})
        return found

    def _shared_rows(self, newest: Mapping[Stream, Review]) -> list[Json]:
        undecided, signed = differing_films(newest)[1], self.store.log.signed()
        rows = []
        for film in self.store.worklist():
            stream = Stream(film.key)
            rows.append(shared_row(film, newest.get(stream), film.key in undecided, stream in signed))
        return rows

    def _adjudication_rows(self, newest: Mapping[Stream, Review]) -> list[Json]:
        """Films that all readers of the study have read, and on which they differ."""
        if self.study is None:
            return []
        name = self.study.name
        differing, read = differing_films(newest, name)[0], finished_readings(newest, name)
        readers, rows = readers_of(self.study.readers, read), []
        for film in self.store.worklist():
            if film.key in differing and readers <= set(read.get(film.key, ())):
                agreed = agreed_reading([review.reading for review in read[film.key].values()])
                rows.append(adjudication_row(film, agreed, newest.get(self.stream(film.key, ""))))
        return rows

    def film(self, key: str, reader: str, repeat: int = 0) -> Json:
        """A film as the reader sees it; raises KeyError if there is none."""
        results, stream = self.store.film(key), self.stream(key, reader, repeat)
        self.store.log.refresh()
        newest = self.store.log.newest(stream)
        is_hidden, base = self.is_hidden(key, reader), self.base(results, stream)
        signed = self.store.log.signed().get(stream)
        return {
            "key": key, "repeat": repeat, "name": "" if self.mode == "blind" else results.name, "mode": self.mode,
            "status": results.status, "reason": None if is_hidden else results.reason,
            "warnings": [] if is_hidden else results.warnings, "mm_per_px": results.mm_per_px,
            "places": [_place(knee) for knee in results.knees], "hidden": is_hidden,
            "knees": None if is_hidden else results.knees, "base": base, "locked": self.is_locked(stream),
            "revision": 0 if newest is None else newest.revision,
            "reading": base if newest is None else with_all_knees(newest.reading, base),
            "reader": None if newest is None else newest.reader, "time": None if newest is None else newest.time,
            "signed": None if signed is None else revision_of(signed),
            "readings": self._readings(key) if self.mode == "adjudicate" else [],
            "same_person": [] if self.mode == "blind" else self._same_person(key),
        }  # fmt: skip

    def _same_person(self, key: str) -> list[Json]:
        """The other films of the person, if the person is known."""
        person = self.store.listed(key).person
        if not person:
            return []  # without listing all films, which takes long in a large spool
        return [
            {"key": other.key, "name": other.name, "visit": other.visit}
            for other in self.store.worklist()
            if other.person == person and other.key != key
        ]

    def save(self, key: str, reader: str, reading: Reading, *, based_on: int, repeat: int = 0) -> Review:
        """The new revision, after it is on the disk; the newest one if it is this reading of this reader, sent again.

        Raises:
            ConflictError: somebody saved a newer one.
            FinishedError: the reading of a study is finished.
            SignedError: the newest revision is signed, and this one changes it; a signature is withdrawn by the same
                reading as a draft.
            IncompleteError: a knee of the film is missing, a finished reading has a knee without a KL grade or reason,
                or the reader of a blind study is not shown the film, or not so often.
            KeyError: there is no such film.
        """
        results, stream = self.store.film(key), self.stream(key, reader, repeat)
        if self.mode == "blind" and self.study is not None and (key, repeat) not in self.study.order(reader):
            raise IncompleteError("The study has no such reading of this film for this reader; reload the page.")
        wanted, newest = reading.model_dump(mode="json"), self.store.log.newest(stream)
        if newest is not None and self.is_locked(stream):
            if newest.reader == reader and newest.reading == wanted:
                return newest  # the answer to the first request was lost
            raise FinishedError("This reading is finished; the results were shown, so it can no longer be changed.")
        check_complete(reading, len(results.knees))
        if newest is not None and newest.revision == based_on and newest.reading.get("status") == SIGNED:
            is_whole = len(newest.reading["knees"]) >= len(results.knees)  # else the film was graded again since
            if is_whole and not is_withdrawal(newest.reading, wanted):
                raise SignedError(
                    f"The film is signed by {newest.reader}, revision {newest.revision}; withdraw the signature first."
                )
        return self.store.log.append(stream, wanted, based_on=based_on, reader=reader, source=results.name)

    def withdraws(self, review: Review) -> bool:
        """True if a revision withdrew the signature of the one before."""
        history = self.store.log.history(review.stream)
        return (
            1 < review.revision <= len(history)
            and history[review.revision - 2].reading.get("status") == SIGNED != review.reading.get("status")
        )  # fmt: skip

    def merged(self, conflict: ConflictError, reading: Reading, based_on: int) -> Json:
        """The newest reading, the merge with it, and the fields that both changed."""
        stream, mine = conflict.newest.stream, reading.model_dump(mode="json")
        history = {review.revision: review.reading for review in self.store.log.history(stream)}
        base = history.get(based_on) or self.base(self.store.film(stream.film), stream)
        merged, differences = merge(base, mine, conflict.newest.reading)
        newest = conflict.newest
        return {
            "detail": conflict.message, "revision": newest.revision, "reader": newest.reader, "time": newest.time,
            "newest": newest.reading, "merged": merged, "differences": [asdict(one) for one in differences],
        }  # fmt: skip

    def is_locked(self, stream: Stream) -> bool:
        """True if a reading of a study, or its adjudication, is finished."""
        return self.study is not None and is_finished(self.store.log.newest(stream))

    def is_hidden(self, key: str, reader: str) -> bool:
        """True in a study until all presentations of the film to this reader are finished, or the film is decided."""
        if self.study is None:
            return False
        if self.adjudicate:
            return not self.is_locked(self.stream(key, reader))
        repeats = [repeat for film, repeat in self.study.order(reader) if film == key]
        return not all(self.is_locked(self.stream(key, reader, repeat)) for repeat in repeats)

    def base(self, results: FilmResults, stream: Stream) -> Json:
        """The reading before the first revision: that of kneegrade, an empty one, or what all readers agree on."""
        if self.mode == "adjudicate":
            return agreed_reading([review.reading for review in self._finished(results.key).values()])
        return machine_reading(results, hidden=self.mode == "blind")

    def _finished(self, key: str) -> dict[str, Review]:
        """Reader → finished first reading of a film in the study."""
        name = "" if self.study is None else self.study.name
        return finished_readings(self.store.log.streams(), name).get(key, {})

    def _readings(self, key: str) -> list[Json]:
        return [{"reader": name, "reading": review.reading} for name, review in sorted(self._finished(key).items())]


def revision_of(review: Review) -> Json:
    """Number, reader and time of a revision."""
    return {"revision": review.revision, "reader": review.reader, "time": review.time}


def _place(knee: Mapping[str, Any]) -> Json | None:
    """Where a knee is on the film, in pixels: centre of the joint, width of the plateau, axes per millimetre."""
    if knee["landmarks_px"] is None:
        return None
    points = np.array([point or (np.nan, np.nan) for point in knee["landmarks_px"]], dtype=np.float64)
    pose = pose_of(points)
    values = dict(zip(("x", "y", "width"), (*pose.centre, pose.width), strict=True))
    if not np.isfinite(list(values.values())).all():
        return None
    return {**values, "mm_to_px": model_to_film(points).tolist()}
