"""Tables and row types of the spool: the states of films and deliveries, and when each is tried again."""

import errno
import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from kneegrade.errors import KneeGradeError

FilmKind = Literal["dicom", "png", "jpeg", "tiff"]
FilmState = Literal["received", "working", "graded", "dead"]
DeliveryState = Literal["due", "sent", "dead"]

ENDINGS: Final[dict[FilmKind, str]] = {"dicom": ".dcm", "png": ".png", "jpeg": ".jpg", "tiff": ".tif"}
KINDS: Final[dict[str, FilmKind]] = {ending: kind for kind, ending in ENDINGS.items()}
FILM_STATES: Final[tuple[FilmState, ...]] = ("received", "working", "graded", "dead")
DELIVERY_STATES: Final[tuple[DeliveryState, ...]] = ("due", "sent", "dead")
MAX_ATTEMPTS: Final = 3  # to grade a film
MAX_INTERRUPTIONS: Final = 10  # stops of the whole service while a film was in work
MAX_DELIVERY_ATTEMPTS: Final = 12  # two and a half hours
FIRST_WAIT_SECONDS: Final = 5.0
MAX_WAIT_SECONDS: Final = 3600.0
BUSY_SECONDS: Final = 30.0  # that a process waits for another one's transaction
SCHEMA_VERSION: Final = 1

_SCHEMA: Final = f"""
create table if not exists films (
    key text primary key, kind text not null, sop_instance_uid text, sender text not null, received real not null,
    state text not null default 'received', attempts integer not null default 0,
    interruptions integer not null default 0, next_try real not null default 0, worker integer, reason text,
    finished real
) strict;
create table if not exists deliveries (
    film text not null, object text not null, destination text not null, state text not null default 'due',
    attempts integer not null default 0, next_try real not null default 0, reason text, finished real,
    primary key (film, object, destination)
) strict;
create index if not exists films_by_state on films (state, next_try, received);
create index if not exists films_by_time on films (received, key);
create index if not exists deliveries_by_state on deliveries (destination, state, next_try);
pragma user_version = {SCHEMA_VERSION};
"""


class SpoolError(KneeGradeError):
    """The spool cannot be read or written. Remedy: what the message says about its folder or disk."""

    default_code = "spool"


class SpoolFullError(SpoolError):
    """The disk of the spool is full. Remedy: free space; the spool then accepts films again by itself."""

    default_code = "spool_full"


@dataclass(frozen=True)
class Recovered:
    """What `Spool.recover` found after a stop.

    Attributes:
        temporary_files: files and folders that were removed from `tmp`.
        indexed_films: complete films that were not in the index.
        freed_films: films that were being graded when the process ended.
    """

    temporary_files: int
    indexed_films: int
    freed_films: int


@dataclass(frozen=True)
class Accepted:
    """A film that the spool has taken over.

    Attributes:
        key: 40 hexadecimal digits.
        is_new: False if the spool had the same bytes of the same instance already.
    """

    key: str
    is_new: bool


@dataclass(frozen=True)
class ClaimedFilm:
    """A film for a worker.

    Attributes:
        key: 40 hexadecimal digits.
        path: of the film.
        kind: of the file.
        attempts: the number of this attempt, from 1.
        received: when the film was accepted, in seconds since 1970.
    """

    key: str
    path: Path
    kind: FilmKind
    attempts: int
    received: float


@dataclass(frozen=True)
class FilmRow:
    """A film in the index.

    Attributes:
        key: 40 hexadecimal digits.
        kind: of the file.
        state: of the film.
        sender: AE title, or name of the token, that sent it.
        received: when it was accepted, in seconds since 1970.
        attempts: how often a worker has begun to grade it.
        next_try: when it may be tried again, in seconds since 1970.
        reason: of the last failure, without patient data.
        finished: when it was graded or given up, or None.
        path: of the film.
        sop_instance_uid: that the sender stated, or None; not for logs.
    """

    key: str
    kind: FilmKind
    state: FilmState
    sender: str
    received: float
    attempts: int
    next_try: float
    reason: str | None
    finished: float | None
    path: Path
    sop_instance_uid: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Delivery:
    """An object that is due at a destination.

    Attributes:
        film: key of the film.
        object: file name in the results of the film.
        destination: name of the destination.
        attempts: that were made before.
        path: of the object's file.
    """

    film: str
    object: str
    destination: str
    attempts: int
    path: Path


@dataclass(frozen=True)
class DeliveryRow:
    """A delivery in the index.

    Attributes:
        film: key of the film.
        object: file name in the results of the film.
        destination: name of the destination.
        state: of the delivery.
        attempts: that were made.
        next_try: when it is tried again, in seconds since 1970.
        reason: of the last failure, without patient data.
        finished: when it was sent or given up, or None.
    """

    film: str
    object: str
    destination: str
    state: DeliveryState
    attempts: int
    next_try: float
    reason: str | None
    finished: float | None


def wait_seconds(attempts: int) -> float:
    """The time until the next attempt after `attempts` failures: 5 s, doubled each time, at most an hour.

    Example:
        >>> [wait_seconds(n) for n in (1, 2, 3, 12)]
        [5.0, 10.0, 20.0, 3600.0]
    """
    return min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (max(attempts, 1) - 1))


def open_index(path: Path) -> sqlite3.Connection:
    """A connection to the index, which is created if it is absent; a commit is on disk when it returns.

    Raises:
        SpoolError: the file is damaged, cannot be written, or was written by a newer version of kneegrade.
    """
    try:
        with suppress(FileExistsError):  # only a new file: to close another handle would end SQLite's locks on it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        index = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        index.row_factory = sqlite3.Row
        (version,) = index.execute("pragma user_version").fetchone()
        if version > SCHEMA_VERSION:
            index.close()
            raise SpoolError(
                f"The spool was written by a newer version of kneegrade (schema {version}, expected "
                f"{SCHEMA_VERSION}); update kneegrade, or choose another folder."
            )
        index.execute("pragma journal_mode = wal")
        index.execute("pragma synchronous = full")
        if version < SCHEMA_VERSION:
            index.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        raise index_error(error) from error
    return index


def index_error(error: Exception) -> SpoolError:
    """The error for the user, from that of SQLite or of the system."""
    if is_full_disk(error):
        return SpoolFullError("The disk of the spool is full; free space, or choose another folder.")
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return SpoolError(
            "The index of the spool (spool.sqlite) is damaged; stop kneegrade serve, move spool.sqlite away and start "
            "it again: the index is rebuilt from the films, which are then graded and delivered again."
        )
    return SpoolError(
        f"The spool cannot be read or written ({type(error).__name__}); check the permissions of its folder and the "
        "disk."
    )


def is_full_disk(error: BaseException) -> bool:
    """True if the error says that no space is left."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
