"""Recovery after a stop, retries and retention; each within a transaction of `Spool`.

A dead film lies in `dead/`, every other one in `films/`. Where a kill came between a rename and the commit of its row,
the place of the file decides.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from kneegrade.server.spool.spool_files import empty_folder, film_name, is_key, move_film
from kneegrade.server.spool.spool_schema import KINDS, Recovered
from kneegrade.server.spool.spool_states import free_interrupted_films
from kneegrade.server.spool.spool_views import film, film_row

UNKNOWN_SENDER: Final = "unknown"
PURGE_FILMS: Final = 100  # in one transaction
_REVIVE: Final = (
    "update films set state = 'received', attempts = 0, interruptions = 0, next_try = 0, finished = null where key = ?"
)


def recover(index: sqlite3.Connection, directory: Path, now: float) -> Recovered:
    """Remove temporary files, enter films that the index lacks, and free those in work; see `Spool.recover`."""
    temporary = empty_folder(directory / "tmp")
    indexed = 0
    for state, folder in (("received", "films"), ("dead", "dead")):
        for path in _films_in(directory / folder):
            values = (path.stem, KINDS[path.suffix], UNKNOWN_SENDER, round(path.stat().st_mtime, 3), state)
            known = film(index, directory, path.stem)
            if known is None:
                query = "insert into films (key, kind, sender, received, state) values (?, ?, ?, ?, ?)"
                indexed += index.execute(query, values).rowcount
            elif folder == "dead" and known.state != "dead":
                index.execute("update films set state = 'dead', finished = ? where key = ?", (now, path.stem))
            elif folder == "films" and known.state == "dead":
                index.execute(_REVIVE, (path.stem,))
    freed = free_interrupted_films(index, directory, now)
    return Recovered(temporary, indexed, freed)


def _films_in(folder: Path) -> Iterator[Path]:
    """The films in a folder; other files are left alone."""
    for path in sorted(folder.iterdir()):
        if path.suffix in KINDS and is_key(path.stem) and path.is_file():
            yield path


def complete_row(index: sqlite3.Connection, key: str, sop_instance_uid: str | None, sender: str) -> None:
    """Enter what `recover` could not know of a film that it found, when the film is sent again."""
    query = "update films set sop_instance_uid = ?, sender = ? where key = ? and sender = ?"
    index.execute(query, (sop_instance_uid, sender, key, UNKNOWN_SENDER))


def retry(index: sqlite3.Connection, directory: Path, now: float, keys: list[str] | None) -> int:
    """Let films and deliveries that are dead or wait be tried at once; see `Spool.retry`."""
    chosen = None if keys is None else set(keys)
    tried = 0
    for row in index.execute(
        "select * from films where state = 'dead' or (state = 'received' and next_try > ?)", (now,)
    ).fetchall():
        if chosen is None or row["key"] in chosen:
            if row["state"] == "dead":
                move_film(directory, film_name(row["key"], row["kind"]), "dead", "films")
            tried += index.execute(_REVIVE, (row["key"],)).rowcount
    query = "select rowid, film from deliveries where state = 'dead' or (state = 'due' and next_try > ?)"
    for row in index.execute(query, (now,)).fetchall():
        if chosen is None or row["film"] in chosen:
            update = "update deliveries set state = 'due', attempts = 0, next_try = 0, finished = null where rowid = ?"
            tried += index.execute(update, (row["rowid"],)).rowcount
    return tried


def purge(
    index: sqlite3.Connection, directory: Path, before: float, after: str, trash: list[Path], *, force: bool
) -> list[str]:
    """The keys of the next films that were finished before a moment, at most `PURGE_FILMS`; see `Spool.purge`.

    Their files move to `tmp` before the rows go: a kill in between leaves rows that the next purge removes, not films
    that the next recovery would take for new.

    Args:
        index: within a transaction.
        directory: of the spool.
        before: seconds since 1970.
        after: key; only films with greater keys.
        trash: gets what moved to `tmp`, to remove when the transaction has ended.
        force: see `Spool.purge`.
    """
    condition = "state in ('graded', 'dead') and coalesce(finished, received) < ? and not exists "
    condition += "(select 1 from deliveries where film = films.key and deliveries.state = 'due')"
    if force:
        condition = "state != 'working' and coalesce(finished, received) < ?"
    query = f"select * from films where {condition} and key > ? order by key limit ?"
    rows = index.execute(query, (before, after, PURGE_FILMS)).fetchall()
    for row in rows:
        for source in (film_row(row, directory).path, directory / "results" / row["key"]):
            target = directory / "tmp" / f"{source.name}.{uuid4().hex}"
            with suppress(FileNotFoundError):
                os.replace(source, target)
                trash.append(target)
        index.execute("delete from deliveries where film = ?", (row["key"],))
        index.execute("delete from films where key = ?", (row["key"],))
    return [row["key"] for row in rows]
