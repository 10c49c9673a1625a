"""What readings of the same film have in common, and on which films they differ."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from kneegrade.server.reading.reading_film import FilmResults
from kneegrade.server.reading.review import CLASSES
from kneegrade.server.reading.review_log import ADJUDICATION, Review, Stream

FINISHED: Final = ("read", "signed")
MAX_REASON: Final = 200

Json = dict[str, Any]


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


def differing_films(newest: Mapping[Stream, Review], study: str | None = None) -> tuple[set[str], set[str]]:
    """Films on which finished readings of several readers differ, and those of them that nobody has adjudicated.

    Args:
        newest: stream → its newest revision.
        study: whose readings count; None: those of all studies, each compared within its study.
    """
    readings: dict[tuple[str, str], list[Json]] = {}
    decided = set()
    for stream, review in newest.items():
        if not stream.study or stream.repeat or not is_finished(review) or study not in (None, stream.study):
            continue
        if stream.reader == ADJUDICATION:
            decided.add(stream.film)
        else:
            readings.setdefault((stream.film, stream.study), []).append(review.reading)
    differing = {
        film for (film, _), several in readings.items() if any(not same_grades(several[0], o) for o in several)
    }
    return differing, differing - decided


def finished_readings(newest: Mapping[Stream, Review], study: str) -> dict[str, dict[str, Review]]:
    """Film → reader → finished first reading of the film in a study, without adjudications."""
    found: dict[str, dict[str, Review]] = {}
    for stream, review in newest.items():
        if stream.study == study and not stream.repeat and stream.reader != ADJUDICATION and is_finished(review):
            found.setdefault(stream.film, {})[stream.reader] = review
    return found


def readers_of(recorded: Collection[str], readings: Mapping[str, Mapping[str, Review]]) -> set[str]:
    """The readers that a study waits for.

    Args:
        recorded: in the file of the study; without them, all who have finished a reading.
        readings: see `finished_readings`.
    """
    return set(recorded) or {reader for own in readings.values() for reader in own}


def is_finished(review: Review | None) -> bool:
    """True if a reading is read or signed."""
    return review is not None and review.reading.get("status") in FINISHED


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
