"""The folder of a batch: part files of the three tables, written so that a kill at any moment loses no finished film.

A part is a file of the same name in `knees/`, `log/` and `films/`, renamed into place in this order. A film is finished
when it has a row in `films/`: parts of the other tables without it belong to a run that was killed in between, and
`clean` removes them.

A part's name begins with the shard of the run that wrote it. A run holds the lock of its own shard, so nobody else
writes parts whose films all belong to it. A part of another division of the films, for example of an earlier run
without `--shard`, may belong to several runs: each removes rows of its own films only, while it holds the lock of the
parts.
"""

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kneegrade.batch.parquet import TABLES, table_schema
from kneegrade.batch.rows import FilmRows, Row
from kneegrade.batch.shard import Shard
from kneegrade.errors import KneeGradeError
from kneegrade.files import make_directory, replacing

FILMS_PER_PART: Final = 200
SECONDS_PER_PART: Final = 30.0
ORDER: Final = ("knees", "log", "films")  # the films last: they tell what is finished
_OPENINGS: Final = 3  # of a part that another computer replaces
_NAME: Final = re.compile(r"\.?([0-9]+)-of-([0-9]+)-")  # of a part or its temporary file

Lock = Callable[[], AbstractContextManager[None]]


class PartWriter:
    """Collects the rows of films and writes them as parts.

    Args:
        directory: of the batch.
        shard: whose films these are; its name is part of the files' names.
        input_fields: columns of the user's table.
    """

    def __init__(self, directory: Path, shard: Shard, input_fields: Sequence[pa.Field] = ()) -> None:
        self._directory = directory
        self._schemas = {name: table_schema(name, input_fields) for name in TABLES}
        self._stem = f"{shard.number}-of-{shard.count}-{secrets.token_hex(4)}"
        self._number = 0
        self._rows: list[FilmRows] = []
        self._since = time.monotonic()
        for name in TABLES:
            make_directory(directory / name)

    def add(self, rows: FilmRows) -> None:
        """Keep the rows of a film; write a part if there are enough films or the first of them is old."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append(rows)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write a part if there are enough films or the first of them is old."""
        if len(self._rows) >= FILMS_PER_PART or time.monotonic() - self._since >= SECONDS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as a part.

        Raises:
            UsageError: the folder cannot be written; the rows are kept.
        """
        if not self._rows:
            return
        rows: dict[str, list[Row]] = {
            "knees": [knee for one in self._rows for knee in one.knees],
            "log": [one.log for one in self._rows],
            "films": [one.film for one in self._rows],
        }
        name = f"{self._stem}-{self._number:06d}.parquet"
        for table in ORDER:
            write_part(self._directory / table / name, pa.Table.from_pylist(rows[table], self._schemas[table]))
        self._rows, self._number = [], self._number + 1


def write_part(path: Path, table: pa.Table) -> None:
    """Write a table to `path`, completely or not at all, even if the power fails."""
    with replacing(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    with suppress(OSError):  # Windows and some network file systems cannot do it for a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk before that of the next table
        finally:
            os.close(folder)


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """The rows of a part; None if it does not exist any more, because a run of another shard has removed it.

    Raises:
        KneeGradeError: it is damaged, or the system refuses to read it.
    """
    name = f"{path.parent.name}/{path.name}"
    for _ in range(_OPENINGS):
        try:
            with pq.ParquetFile(path) as part:
                return part.read(columns=None if columns is None else list(columns))
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            number = getattr(error, "errno", None)
            if number == errno.ESTALE:  # NFS: another computer has replaced or removed it after it was opened
                continue
            if number:
                reason = os.strerror(number)
                message = f"{name} cannot be read ({reason}). Check the permissions and the disk, and run again."
                raise KneeGradeError(message) from None
            raise KneeGradeError(
                f"{name} is damaged ({type(error).__name__}). Remove the files of this name in knees, log and films, "
                "and run again: their films are graded again."
            ) from None
    raise KneeGradeError(f"{name} changes all the time. Run again when no other run writes to the folder.")


def _names(directory: Path, table: str) -> set[str]:
    return {path.name for path in (directory / table).glob("[!.]*.parquet")}


def _shard_of(name: str) -> Shard | None:
    """The shard in the name of a part or of its temporary file; None if there is none."""
    found = _NAME.match(name)
    number, count = map(int, found.groups()) if found else (0, 0)
    return Shard(number, count) if 1 <= number <= count else None


def _has_films_of(name: str, shard: Shard) -> bool:
    """Whether a file is a part, or its temporary file, that may have films of the shard."""
    own = _shard_of(name)
    return own is not None and own.overlaps(shard)


def parts(directory: Path, table: str, shard: Shard | None = None) -> dict[str, Path]:
    """Name → path of the complete parts of a table, sorted; parts without a part of `films` are left out.

    Args:
        directory: of the batch.
        table: of `TABLES`.
        shard: leave out parts that have no film of it; None: all. A part that other programs named is kept.
    """
    finished = _names(directory, "films")
    found = sorted(finished & _names(directory, table))
    if shard is not None:
        found = [name for name in found if _shard_of(name) is None or _has_films_of(name, shard)]
    return {name: directory / table / name for name in found}


def read_table(directory: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a table.

    Raises:
        KneeGradeError: a part is damaged.
    """
    found = list(part_tables(directory, table, columns))
    if not found:
        schema = table_schema(table)
        return (schema if columns is None else pa.schema([schema.field(one) for one in columns])).empty_table()
    return pa.concat_tables(found)


def part_tables(directory: Path, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a table, part by part, for tables that need much memory.

    Raises:
        KneeGradeError: a part is damaged.
    """
    for path in parts(directory, table).values():
        rows = read_part(path, columns)
        if rows is not None:
            yield rows


def clean(directory: Path, shard: Shard, lock: Lock = nullcontext) -> int:
    """Number of film rows removed to be graded again, after what killed runs left of the shard's films was removed.

    Removed are temporary files, parts that are not in all three tables, and rows of films that could not be read at all
    (they have no SHA-256), perhaps because a disk or network was away.

    Args:
        directory: of the batch.
        shard: of which this process holds the lock.
        lock: within its block, no other process changes parts that have films of several shards.
    """
    with lock():
        _remove_remains(directory, shard)
    again = 0
    for name, path in parts(directory, "films", shard).items():
        films = read_part(path, ["source", "sha256"])
        if films is not None and _has_films_of(name, shard) and pc.any(_unread(films, shard)).as_py():
            with lock():
                again += _remove_unread(directory, name, shard)
    return again


def _remove_remains(directory: Path, shard: Shard) -> None:
    """Remove temporary files, and parts that lack a table, of which a run was killed or a file lost with the power."""
    for table in TABLES:
        for path in (directory / table).glob(".*"):
            if _has_films_of(path.name, shard):
                path.unlink(missing_ok=True)
    names = {table: _names(directory, table) for table in reversed(ORDER)}
    complete = set.intersection(*names.values())
    for table, found in names.items():
        for name in found - complete:
            if _has_films_of(name, shard):
                (directory / table / name).unlink(missing_ok=True)


def _unread(rows: pa.Table, shard: Shard) -> pa.Array:
    """For each row, whether its film belongs to the shard and could not be read."""
    keys = zip(rows["source"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
    return pa.array([sha256 is None and source in shard for source, sha256 in keys], pa.bool_())


def _remove_unread(directory: Path, name: str, shard: Shard) -> int:
    """Number of films removed from a part, in the order in which a kill in between leaves what `clean` can finish."""
    films = read_part(directory / "films" / name, ["source", "sha256"])
    if films is None:
        return 0
    number = int(pc.sum(_unread(films, shard)).as_py() or 0)
    if number == len(films):
        for table in reversed(ORDER):
            (directory / table / name).unlink(missing_ok=True)
    elif number:
        for table in ORDER:
            rows = read_part(directory / table / name)
            if rows is not None:
                write_part(directory / table / name, rows.filter(pc.invert(_unread(rows, shard))))
    return number


def record_versions(
    directory: Path, shard: Shard, versions: Mapping[tuple[str, str], str], lock: Lock = nullcontext
) -> None:
    """Write the present state of files into `log`, whose bytes have proved to be those that were graded.

    Args:
        directory: of the batch.
        shard: of which this process holds the lock.
        versions: name and SHA-256 of a film → `version`.
        lock: as for `clean`.
    """
    for path in parts(directory, "log", shard).values() if versions else ():
        if _with_versions(read_part(path, ["source", "sha256", "version"]), versions) is not None:
            with lock():
                rows = _with_versions(read_part(path), versions)
                if rows is not None:
                    write_part(path, rows)


def _with_versions(rows: pa.Table | None, versions: Mapping[tuple[str, str], str]) -> pa.Table | None:
    """The rows of `log` with other versions; None if nothing changes."""
    if rows is None:
        return None
    columns = [rows[name].to_pylist() for name in ("source", "sha256", "version")]
    before = columns[2]
    now = [versions.get((source, sha256), old) for source, sha256, old in zip(*columns, strict=True)]
    if now == before:
        return None
    place = rows.schema.get_field_index("version")
    return rows.set_column(place, rows.schema.field(place), pa.array(now, pa.string()))
