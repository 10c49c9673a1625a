"""Rows of the worklist, as JSON values: key, name, sides and KL grades, flags, status."""

from typing import Any, Final

from kneegrade.server.reading.reading_film import FLAGS, ListedFilm
from kneegrade.server.reading.review_log import SIGNED, Review

DIFFER: Final = 1 << len(FLAGS)  # bit of films on which readers differ
DIFFER_DOUBT: Final = 10  # added to the doubt of such films, so that they come first

Json = dict[str, Any]


def shared_row(film: ListedFilm, newest: Review | None, differ: bool, was_signed: bool) -> Json:
    """The row of a film with the results of kneegrade.

    Args:
        film: to list.
        newest: its newest reading.
        differ: whether readers of a study differ on it.
        was_signed: whether a reading of it was signed.
    """
    machine = [knee.grades.get("kl") for knee in film.knees]
    knees = [[knee.side, kl, kl] for knee, kl in zip(film.knees, machine, strict=True)]
    if newest is not None:
        read = _read_knees(newest.reading)
        knees = [[side, kl, machine[i] if i < len(machine) else None] for i, (side, kl) in enumerate(read)]
    status = _status(newest)
    return {
        "key": film.key, "repeat": 0, "name": film.name, "knees": knees,
        "flags": film.flags | (DIFFER if differ else 0),
        "doubt": round(film.doubt, 4) + (DIFFER_DOUBT if differ else 0), "status": status,
        "withdrawn": was_signed and status != SIGNED, "reader": None if newest is None else newest.reader,
        "person": film.person, "visit": film.visit,
    }  # fmt: skip


def blind_row(number: int, key: str, repeat: int, newest: Review | None) -> Json:
    """The row of a presentation in a blind reading, without name and results."""
    knees = [[side, kl, None] for side, kl in (_read_knees(newest.reading) if newest else ())]
    return {
        "key": key, "repeat": repeat, "name": f"Film {number}", "knees": knees, "flags": 0, "doubt": 0,
        "status": _status(newest), "reader": None, "person": "", "visit": "",
    }  # fmt: skip


def adjudication_row(film: ListedFilm, agreed: Json, decided: Review | None) -> Json:
    """The row of a film on which readers differ, without results of kneegrade.

    Args:
        film: to list.
        agreed: what the readers have in common.
        decided: the adjudication, if there is one.
    """
    knees = _read_knees(agreed if decided is None else decided.reading)
    return {
        "key": film.key, "repeat": 0, "name": film.name, "knees": [[side, kl, kl] for side, kl in knees],
        "flags": DIFFER, "doubt": 0, "status": _status(decided), "reader": None if decided is None else decided.reader,
        "person": film.person, "visit": film.visit,
    }  # fmt: skip


def _read_knees(reading: Json) -> list[tuple[str, int | None]]:
    """Side and KL grade of each knee, None where it is not gradable or not read."""
    return [(knee["side"], knee["grades"].get("kl") if knee["gradable"] else None) for knee in reading["knees"]]


def _status(newest: Review | None) -> str:
    return "new" if newest is None else str(newest.reading.get("status", "draft"))
