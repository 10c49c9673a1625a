"""`ReadingDesk`: the worklist and the films as one reader sees them, in one of three modes.

- "shared": all readers correct the same reading of a film, which starts as that of kneegrade.
- "blind": each reader of a study grades alone, without the results of kneegrade, until the reading is finished.
- "adjudicate": the films of a study on which its readers differ, with what each of them read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.shape_following import model_to_film
from kneegrade.errors import KneeGradeError
from kneegrade.server.blind_study import Study
from kneegrade.server.reading_film import FLAGS, FilmContent, FilmResults, ListedFilm
from kneegrade.server.review import CLASSES, IncompleteError, Reading, check_complete, merge, with_all_knees
from kneegrade.server.review_log import ADJUDICATION, ConflictError, Review, ReviewLog, Stream

Mode = Literal["shared", "blind", "adjudicate"]
DIFFER: Final = 1 << len(FLAGS)  # bit of films on which readers differ
FINISHED: Final = ("read", "signed")
MAX_REASON: Final = 200

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
        newest = self.store.log.streams()
        differing = differing_films(newest)
        films: list[Json] = []
        if self.mode == "blind" and self.study is not None:
            for number, (key, repeat) in enumerate(self.study.order(reader), start=1):
                films.append(self._blind_row(number, key, repeat, newest.get(self.stream(key, reader, repeat))))
        else:
            for film in self.store.worklist():
                if self.mode == "shared" or film.key in differing[0]:
                    films.append(_row(film, newest.get(self.stream(film.key, reader)), film.key in differing[1]))
        name = None if self.study is None else self.study.name
        return {"title": self.store.title, "mode": self.mode, "study": name, "reader": reader, "films": films}

    def film(self, key: str, reader: str, repeat: int = 0) -> Json:
        """A film as the reader sees it; raises KeyError if there is none."""
        results, stream = self.store.film(key), self.stream(key, reader, repeat)
        self.store.log.refresh()
        newest = self.store.log.newest(stream)
        is_hidden = self.is_hidden(key, reader)
        base = self.base(results, stream)
        return {
            "key": key, "repeat": repeat, "name": "" if self.mode == "blind" else results.name, "mode": self.mode,
            "status": results.status, "reason": None if is_hidden else results.reason,
            "warnings": [] if is_hidden else results.warnings, "mm_per_px": results.mm_per_px,
            "places": [_place(knee) for knee in results.knees], "hidden": is_hidden,
            "knees": None if is_hidden else results.knees, "base": base, "locked": self.is_locked(stream),
            "revision": 0 if newest is None else newest.revision,
            "reading": base if newest is None else with_all_knees(newest.reading, base),
            "reader": None if newest is None else newest.reader, "time": None if newest is None else newest.time,
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
        """The new revision, after it is on the disk.

        Raises:
            ConflictError: somebody saved a newer one.
            FinishedError: the reading of a study is finished.
            IncompleteError: a knee of the film is missing, a finished reading has a knee without a KL grade or reason,
                or the reader of a blind study is not shown the film, or not so often.
            KeyError: there is no such film.
        """
        results, stream = self.store.film(key), self.stream(key, reader, repeat)
        if self.mode == "blind" and self.study is not None and (key, repeat) not in self.study.order(reader):
            raise IncompleteError("The study has no such reading of this film for this reader; reload the page.")
        if self.is_locked(stream):
            raise FinishedError("This reading is finished; the results were shown, so it can no longer be changed.")
        check_complete(reading, len(results.knees))
        return self.store.log.append(
            stream, reading.model_dump(mode="json"), based_on=based_on, reader=reader, source=results.name
        )

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
        """True if a blind reading is finished."""
        newest = self.store.log.newest(stream)
        return self.mode == "blind" and newest is not None and newest.reading.get("status") in FINISHED

    def is_hidden(self, key: str, reader: str) -> bool:
        """True in a blind reading until all presentations of the film to this reader are finished."""
        if self.mode != "blind" or self.study is None:
            return False
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
        return {
            stream.reader: review
            for stream, review in self.store.log.streams().items()
            if (stream.film, stream.study, stream.repeat) == (key, name, 0)
            and stream.reader != ADJUDICATION
            and review.reading.get("status") in FINISHED
        }

    def _readings(self, key: str) -> list[Json]:
        return [{"reader": name, "reading": review.reading} for name, review in sorted(self._finished(key).items())]

    def _blind_row(self, number: int, key: str, repeat: int, newest: Review | None) -> Json:
        knees = [[knee["side"], knee["grades"].get("kl"), None] for knee in (newest.reading["knees"] if newest else ())]
        return {
            "key": key, "repeat": repeat, "name": f"Film {number}", "knees": knees, "flags": 0, "doubt": 0,
            "status": _status(newest), "reader": None, "person": "", "visit": "",
        }  # fmt: skip


def machine_reading(results: FilmResults, *, hidden: bool = False) -> Json:
    """What kneegrade read, as a reading; without grades and reasons if they are hidden."""
    knees = []
    for knee in results.knees:
        grades = {name: int(grade["grade"]) for name, grade in (knee["grades"] or {}).items()}
        reason = (knee.get("reason") or {}).get("message", "")
        is_gradable = hidden or bool(grades)
        knees.append({
            "side": knee["side"], "gradable": is_gradable, "reason": "" if is_gradable else reason[:MAX_REASON],
            "grades": {} if hidden else grades, "landmarks_px": None,
        })  # fmt: skip
    return {"knees": knees, "note": "", "status": "draft"}


def differing_films(newest: Mapping[Stream, Review]) -> tuple[set[str], set[str]]:
    """Films on which finished readings of several readers differ, and those of them that nobody has adjudicated."""
    readings: dict[tuple[str, str], list[Json]] = {}
    decided = set()
    for stream, review in newest.items():
        if not stream.study or stream.repeat or review.reading.get("status") not in FINISHED:
            continue
        if stream.reader == ADJUDICATION:
            decided.add(stream.film)
        else:
            readings.setdefault((stream.film, stream.study), []).append(review.reading)
    differing = {
        film for (film, _), several in readings.items() if any(not same_grades(several[0], o) for o in several)
    }
    return differing, differing - decided


def same_grades(first: Json, second: Json) -> bool:
    """True if two readings give the same grades, sides and verdicts on gradability."""
    return _verdicts(first) == _verdicts(second)


def _verdicts(reading: Json) -> list[Any]:
    return [(knee["side"], knee["gradable"], knee["grades"] if knee["gradable"] else {}) for knee in reading["knees"]]


def agreed_reading(readings: list[Json]) -> Json:
    """The reading with what all readings have in common; grades on which they differ are absent."""
    if not readings:
        return {"knees": [], "note": "", "status": "draft"}
    knees = []
    for number, knee in enumerate(readings[0]["knees"]):
        others = [one["knees"][number] for one in readings if number < len(one["knees"])]
        grades = {
            name: knee["grades"][name]
            for name in CLASSES
            if name in knee["grades"] and all(other["grades"].get(name) == knee["grades"][name] for other in others)
        }
        is_gradable = any(other["gradable"] for other in others)
        reason = "" if is_gradable else knee["reason"]
        knees.append({**knee, "gradable": is_gradable, "reason": reason, "grades": grades})
    return {"knees": knees, "note": "", "status": "draft"}


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


def _status(newest: Review | None) -> str:
    return "new" if newest is None else str(newest.reading.get("status", "draft"))


def _row(film: ListedFilm, newest: Review | None, differ: bool) -> Json:
    machine = [knee.grades.get("kl") for knee in film.knees]
    knees = [[knee.side, kl, kl] for knee, kl in zip(film.knees, machine, strict=True)]
    if newest is not None:
        read = newest.reading["knees"]
        knees = [
            [
                knee["side"],
                knee["grades"].get("kl") if knee["gradable"] else None,
                machine[i] if i < len(machine) else None,
            ]
            for i, knee in enumerate(read)
        ]
    return {
        "key": film.key, "repeat": 0, "name": film.name, "knees": knees,
        "flags": film.flags | (DIFFER if differ else 0),
        "doubt": round(film.doubt, 4) + (10 if differ else 0), "status": _status(newest),
        "reader": None if newest is None else newest.reader, "person": film.person, "visit": film.visit,
    }  # fmt: skip
