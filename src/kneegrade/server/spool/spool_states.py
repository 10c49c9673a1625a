"""Changes of the states of films and deliveries; each within a transaction of `Spool`."""

import sqlite3
from pathlib import Path
from typing import Final

from kneegrade.server.spool.spool_files import film_name, move_film
from kneegrade.server.spool.spool_schema import (
    MAX_ATTEMPTS,
    MAX_DELIVERY_ATTEMPTS,
    MAX_INTERRUPTIONS,
    Delivery,
    FilmRow,
    wait_seconds,
)  # fmt: skip
from kneegrade.server.spool.spool_views import film, film_row

STOPPED: Final = "The service ended while the film was graded."


def claim_film(index: sqlite3.Connection, directory: Path, worker: int, now: float) -> FilmRow | None:
    """The film that is due and was tried least, then received first, now `working`; see `Spool.claim`."""
    row = index.execute(
        "update films set state = 'working', attempts = attempts + 1, worker = ? where key = (select key from films "
        "where state = 'received' and next_try <= ? order by attempts + interruptions, received, key limit 1) "
        "returning *",
        (worker, now),
    ).fetchone()
    return None if row is None else film_row(row, directory)


def fail_film(
    index: sqlite3.Connection, directory: Path, key: str, reason: str, now: float, *, is_final: bool = False
) -> None:
    """Enter a failed attempt to grade a film; see `Spool.fail`. A graded film stays graded."""
    row = film(index, directory, key)
    if row is None or row.state in ("graded", "dead"):
        return
    if is_final or row.attempts >= MAX_ATTEMPTS:
        move_film(directory, film_name(key, row.kind), "films", "dead")
        query = "update films set state = 'dead', reason = ?, finished = ?, worker = null where key = ?"
        index.execute(query, (reason, now, key))
    else:
        query = "update films set state = 'received', reason = ?, next_try = ?, worker = null where key = ?"
        index.execute(query, (reason, now + wait_seconds(row.attempts), key))


def free_interrupted_films(index: sqlite3.Connection, directory: Path, now: float) -> int:
    """The number of films that were in work when the whole service ended; they are due again.

    Such an attempt does not count, because the cause is rarely the film; after `MAX_INTERRUPTIONS` the film is dead.
    """
    rows = index.execute("select key, interruptions from films where state = 'working'").fetchall()
    for row in rows:
        index.execute(
            "update films set interruptions = interruptions + 1, attempts = max(attempts - 1, 0) where key = ?",
            (row["key"],),
        )
        fail_film(
            index, directory, row["key"], STOPPED, now, is_final=row["interruptions"] + 1 >= MAX_INTERRUPTIONS
        )  # fmt: skip
        index.execute("update films set next_try = 0 where key = ?", (row["key"],))
    return len(rows)


def record_delivery(
    index: sqlite3.Connection, delivery: Delivery, reason: str | None, now: float, *, is_final: bool
) -> None:
    """Enter the end of an attempt to deliver; `reason` is None if it was sent. See `Spool.record_delivery`."""
    attempts = delivery.attempts + 1
    is_dead = reason is not None and (is_final or attempts >= MAX_DELIVERY_ATTEMPTS)
    state = "sent" if reason is None else "dead" if is_dead else "due"
    values = {
        "state": state, "attempts": attempts, "reason": reason,
        "next_try": now + wait_seconds(attempts) if state == "due" else 0.0,
        "finished": None if state == "due" else now,
        "film": delivery.film, "object": delivery.object, "destination": delivery.destination,
    }  # fmt: skip
    index.execute(
        "update deliveries set state = :state, attempts = :attempts, reason = :reason, next_try = :next_try, "
        "finished = :finished where film = :film and object = :object and destination = :destination "
        "and state != 'sent'",
        values,
    )
