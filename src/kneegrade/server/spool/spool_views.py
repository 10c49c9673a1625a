"""Queries of the spool's index."""

import sqlite3
from pathlib import Path

from kneegrade.server.spool.spool_files import film_name
from kneegrade.server.spool.spool_schema import (
    DELIVERY_STATES,
    FILM_STATES,
    Delivery,
    DeliveryRow,
    FilmRow,
    FilmState,
)  # fmt: skip


def film_row(row: sqlite3.Row, directory: Path) -> FilmRow:
    """A row of the table `films`; the path depends on the state."""
    folder = "dead" if row["state"] == "dead" else "films"
    return FilmRow(
        row["key"], row["kind"], row["state"], row["sender"], row["received"], row["attempts"], row["next_try"],
        row["reason"], row["finished"], directory / folder / film_name(row["key"], row["kind"]),
        row["sop_instance_uid"],
    )  # fmt: skip


def film(index: sqlite3.Connection, directory: Path, key: str) -> FilmRow | None:
    """The film with a key, or None."""
    row = index.execute("select * from films where key = ?", (key,)).fetchone()
    return None if row is None else film_row(row, directory)


def films(
    index: sqlite3.Connection, directory: Path, state: FilmState | None, limit: int, before: str | None
) -> list[FilmRow]:
    """Films, the last received first; see `Spool.films`."""
    conditions: list[str] = ["1"]
    values: list[str] = []
    if state is not None:
        conditions.append("state = ?")
        values.append(state)
    if before is not None:
        conditions.append("(received, key) < (select received, key from films where key = ?)")
        values.append(before)
    query = f"select * from films where {' and '.join(conditions)} order by received desc, key desc limit ?"
    return [film_row(row, directory) for row in index.execute(query, (*values, limit))]


def due_deliveries(
    index: sqlite3.Connection, directory: Path, destination: str, now: float, limit: int
) -> list[Delivery]:
    """The deliveries to a destination that are due, the oldest first."""
    rows = index.execute(
        "select * from deliveries where destination = ? and state = 'due' and next_try <= ? order by next_try, rowid "
        "limit ?",
        (destination, now, limit),
    )
    return [
        Delivery(
            row["film"], row["object"], row["destination"], row["attempts"],
            directory / "results" / row["film"] / row["object"],
        )
        for row in rows
    ]  # fmt: skip


def deliveries(index: sqlite3.Connection, key: str) -> list[DeliveryRow]:
    """The deliveries of a film, in the order in which they were entered."""
    return [
        DeliveryRow(
            row["film"], row["object"], row["destination"], row["state"], row["attempts"], row["next_try"],
            row["reason"], row["finished"],
        )
        for row in index.execute("select * from deliveries where film = ? order by rowid", (key,))
    ]  # fmt: skip


def counts(index: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """The number of films and of deliveries in each state."""
    numbers: dict[str, dict[str, int]] = {
        "films": dict.fromkeys(FILM_STATES, 0),
        "deliveries": dict.fromkeys(DELIVERY_STATES, 0),
    }
    for table, states in numbers.items():
        for state, number in index.execute(f"select state, count(*) from {table} group by state"):
            states[state] = number
    return numbers
