"""The spool: films, their results and their deliveries, on disk before they are acknowledged.

    tmp/  films/KEY.dcm  results/KEY/  dead/KEY.dcm  spool.sqlite

Films and results are files; their states are rows of an SQLite index, which several processes use at the same time.
Films pass from `received` to `working` to `graded` or `dead`, deliveries from `due` to `sent` or `dead`. The index can
be rebuilt from the files: a film without a row is received again.
"""

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from kneegrade.errors import UsageError
from kneegrade.server.spool import spool_states, spool_upkeep, spool_views
from kneegrade.server.spool.spool_files import (
    film_key,
    film_name,
    is_key,
    make_folders,
    move_results,
    new_folder,
    printable,
    remove_all,
    seal,
    sync_folder,
)  # fmt: skip
from kneegrade.server.spool.spool_schema import (
    MAX_ATTEMPTS,
    Accepted,
    ClaimedFilm,
    Delivery,
    DeliveryRow,
    FilmKind,
    FilmRow,
    FilmState,
    Recovered,
    SpoolError,
    SpoolFullError,
    index_error,
    open_index,
)  # fmt: skip

__all__ = [
    "MAX_ATTEMPTS", "Accepted", "ClaimedFilm", "Delivery", "DeliveryRow", "FilmKind", "FilmRow", "Recovered", "Spool",
    "SpoolError", "SpoolFullError",
]  # fmt: skip

WORKER_DIED: Final = "The process that graded the film ended unexpectedly."
_MAX_UID: Final = 64


class Spool:
    """A folder of films and results; each process opens its own, threads share it.

    Every method raises `SpoolError` if the folder or its index cannot be read or written, and its subclass
    `SpoolFullError` if the disk is full.

    Args:
        directory: of the spool; it is created.
        min_free_bytes: free space of the disk below which no film is accepted.
        clock: seconds since 1970.

    Raises:
        SpoolError: the folder cannot be created or written, or its index is damaged.
    """

    def __init__(
        self, directory: Path, *, min_free_bytes: int = 2 << 30, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory = Path(directory)
        self._min_free_bytes, self._clock = min_free_bytes, clock
        self._lock, self._reading_lock = threading.RLock(), threading.RLock()
        try:
            make_folders(self.directory)
        except OSError as error:
            raise SpoolError(
                f"The folder of the spool cannot be created ({error.strerror}); choose another folder, or change its "
                "permissions."
            ) from error
        self._index = open_index(self.directory / "spool.sqlite")
        self._reading_index = open_index(self.directory / "spool.sqlite")  # reads do not wait for those who write

    def close(self) -> None:
        """Close the index; the spool cannot be used afterwards."""
        with self._lock, self._reading_lock:
            self._index.close()
            self._reading_index.close()

    # Receiving films

    def is_full(self) -> bool:
        """Whether the disk has less free space than `min_free_bytes`."""
        try:
            disk = os.statvfs(self.directory)
        except OSError as error:
            raise index_error(error) from error
        return disk.f_bavail * disk.f_frsize < self._min_free_bytes

    def temporary_file(self) -> tuple[BinaryIO, Path]:
        """A new file in `tmp` that only its owner can read, open for writing, and its path."""
        try:
            handle, name = tempfile.mkstemp(dir=self.directory / "tmp", suffix=".part")
        except OSError as error:
            raise index_error(error) from error
        return os.fdopen(handle, "wb"), Path(name)

    def accept(self, path: Path, *, kind: FilmKind, sop_instance_uid: str | None, sender: str) -> Accepted:
        """Take over a complete film: when this returns, the film survives a kill and a loss of power.

        Args:
            path: of the closed file, on the disk of the spool; it is gone afterwards, also after an error.
            kind: of the file.
            sop_instance_uid: that the sender stated, or None.
            sender: AE title or name of the token.
        """
        try:
            received = round(self._clock(), 3)
            key = film_key(sop_instance_uid, seal(path, received))
            uid = printable(sop_instance_uid, _MAX_UID) if sop_instance_uid else None
            is_new = self._enter(key, path, (kind, uid, printable(sender), received))
        except OSError as error:
            raise index_error(error) from error
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return Accepted(key, is_new)

    def _enter(self, key: str, path: Path, row: tuple[FilmKind, str | None, str, float]) -> bool:
        """Rename the file and write its row, in one transaction: no other process has the film in between."""
        target = self.directory / "films" / film_name(key, row[0])
        is_renamed = False
        try:
            with self._transaction() as index:
                known = spool_views.film(index, self.directory, key)
                if known is not None and (known.state == "graded" or known.path.exists()):
                    spool_upkeep.complete_row(index, key, row[1], row[2])
                    return False
                if self.is_full():
                    raise SpoolFullError("The disk of the spool is full; free space.")
                os.replace(path, target)
                is_renamed = True
                sync_folder(target.parent)
                index.execute(
                    "insert or replace into films (key, kind, sop_instance_uid, sender, received) values (?,?,?,?,?)",
                    (key, *row),
                )
        except BaseException:
            if is_renamed:
                self._take_back(key, target)
            raise
        return True

    def _take_back(self, key: str, target: Path) -> None:
        """Remove a renamed film whose row could not be written, unless another process has entered it since."""
        with suppress(SpoolError, OSError), self._transaction() as index:
            if spool_views.film(index, self.directory, key) is None:
                target.unlink(missing_ok=True)

    # Grading films

    def claim(self) -> ClaimedFilm | None:
        """The film that has waited longest and is due, now `working`; None if there is none.

        The attempt is counted before the work, so that a film that ends its process runs out of attempts.
        """
        with self._transaction() as index:
            film = spool_states.claim_film(index, self.directory, os.getpid(), self._clock())
        if film is None:
            return None
        return ClaimedFilm(film.key, film.path, film.kind, film.attempts, film.received)

    @contextmanager
    def writing_results(self, key: str) -> Iterator[Path]:
        """A temporary folder that becomes `results(key)`, on disk, when the block ends without an exception.

        A kill leaves the old results, the new ones or none, never a part of them.
        """
        target = self.results(key)
        try:
            folder = new_folder(self.directory / "tmp")
            try:
                yield folder
                move_results(folder, target, self.directory / "tmp")
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise index_error(error) from error

    def finish(self, key: str, *, deliveries: Mapping[str, Sequence[str]]) -> None:
        """Enter that a film is graded, and which of its results are due where; nothing if the film was purged.

        Args:
            key: of the film, whose results are in `results(key)`.
            deliveries: names of object files by name of the destination; those that are entered already stay as they
                are.
        """
        rows = [(key, name, destination) for destination, names in deliveries.items() for name in names]
        with self._transaction() as index:
            update = "update films set state = 'graded', finished = ?, reason = null, worker = null where key = ?"
            if index.execute(update, (self._clock(), key)).rowcount:
                index.executemany("insert or ignore into deliveries (film, object, destination) values (?, ?, ?)", rows)

    def fail(self, key: str, *, reason: str, is_final: bool = False) -> None:
        """Enter that a film could not be graded: it is tried again later, or dead after the third attempt.

        Args:
            key: of the film.
            reason: a short code or sentence without patient data.
            is_final: whether another attempt is useless.
        """
        with self._transaction() as index:
            spool_states.fail_film(index, self.directory, key, printable(reason), self._clock(), is_final=is_final)

    def release_worker(self, worker: int) -> int:
        """The number of films that a process had claimed when it ended, after `fail` of each.

        Args:
            worker: process id.
        """
        with self._transaction() as index:
            keys = [
                row["key"]
                for row in index.execute("select key from films where state = 'working' and worker = ?", (worker,))
            ]
            for key in keys:
                spool_states.fail_film(index, self.directory, key, WORKER_DIED, self._clock())
        return len(keys)

    # Delivering results

    def due_deliveries(self, destination: str, limit: int = 50) -> list[Delivery]:
        """The deliveries to a destination that are due, the oldest first."""
        with self._transaction(is_writing=False) as index:
            return spool_views.due_deliveries(index, self.directory, destination, self._clock(), limit)

    def record_delivery(self, delivery: Delivery, *, error: str | None = None, is_final: bool = False) -> None:
        """Enter how an attempt to deliver ended: sent, tried again later, or dead.

        Args:
            delivery: that was attempted.
            error: a short code or sentence without patient data; None if it was sent.
            is_final: whether another attempt is useless.
        """
        with self._transaction() as index:
            reason = None if error is None else printable(error)
            spool_states.record_delivery(index, delivery, reason, self._clock(), is_final=is_final)

    # Looking

    def counts(self) -> dict[str, dict[str, int]]:
        """The number of films and of deliveries by state: `{"films": {state: n}, "deliveries": {state: n}}`."""
        with self._transaction(is_writing=False) as index:
            return spool_views.counts(index)

    def film(self, key: str) -> FilmRow | None:
        """The film with a key, or None."""
        with self._transaction(is_writing=False) as index:
            return spool_views.film(index, self.directory, key)

    def films(self, *, state: FilmState | None = None, limit: int = 100, before: str | None = None) -> list[FilmRow]:
        """Films, the last received first.

        Args:
            state: of the films; None for all.
            limit: the highest number of films.
            before: key of a film; only films received before it. The last key of a page gives the next page.
        """
        with self._transaction(is_writing=False) as index:
            return spool_views.films(index, self.directory, state, limit, before)

    def deliveries(self, key: str) -> list[DeliveryRow]:
        """The deliveries of a film."""
        with self._transaction(is_writing=False) as index:
            return spool_views.deliveries(index, key)

    def results(self, key: str) -> Path:
        """The folder of a film's results; it exists once the film is graded.

        Raises:
            UsageError: `key` is not a key.
        """
        if not is_key(key):
            raise UsageError("The key of a film has 40 hexadecimal digits; `kneegrade spool ls` lists them.")
        return self.directory / "results" / key

    # Upkeep

    def recover(self) -> Recovered:
        """What was found and repaired after a stop; called once, before the processes that use the spool start."""
        with self._transaction() as index:
            return spool_upkeep.recover(index, self.directory, self._clock())

    def retry(self, keys: Iterable[str] | None = None) -> int:
        """The number of films and deliveries that are tried again at once: those that are dead or wait for a retry.

        Args:
            keys: of films; None for all.
        """
        with self._transaction() as index:
            return spool_upkeep.retry(index, self.directory, self._clock(), None if keys is None else list(keys))

    def purge(
        self, *, older_than_seconds: float, force: bool = False,
        on_removal: Callable[[Sequence[str]], None] = lambda keys: None,
    ) -> int:  # fmt: skip
        """The number of films that were removed with their results.

        Args:
            older_than_seconds: since they were graded or given up; with `force` also since they were received.
            force: remove also films that are not graded yet or have due deliveries; never films in work.
            on_removal: called with the keys of each part of them before its removal counts, again if it is tried again.
        """
        before, removed, last = self._clock() - older_than_seconds, 0, ""
        while True:
            trash: list[Path] = []
            try:
                with self._transaction() as index:
                    keys = spool_upkeep.purge(index, self.directory, before, last, trash, force=force)
                    if keys:
                        on_removal(keys)
            except SpoolFullError:
                if not trash:
                    raise
                continue  # with the room that the files leave
            finally:
                with suppress(OSError):
                    remove_all(trash)  # after the transaction: others write meanwhile
            if not keys:
                return removed
            removed, last = removed + len(keys), keys[-1]

    @contextmanager
    def _transaction(self, *, is_writing: bool = True) -> Iterator[sqlite3.Connection]:
        """The index within a transaction; those that write wait for each other; errors are `SpoolError`s."""
        index = self._index if is_writing else self._reading_index
        with self._lock if is_writing else self._reading_lock:
            try:
                index.execute("begin immediate" if is_writing else "begin")
                yield index
                index.execute("commit")
            except (sqlite3.Error, OSError) as error:
                raise index_error(error) from error
            finally:
                if index.in_transaction:
                    with suppress(sqlite3.Error):
                        index.execute("rollback")
