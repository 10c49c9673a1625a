"""The folder of a batch: part files of the three tables, written so that a kill at any moment loses no finished film.

A part is a file of the same name in `knees/`, `log/` and `films/`, renamed into place in this order. A film is finished
when it has a row in `films/`: parts of the other tables without it belong to a run that was killed in between, and
`clean` removes them.
"""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kneegrade.batch.parquet import TABLES, table_schema
from kneegrade.batch.rows import FilmRows, Row, is_all_graded
from kneegrade.batch.shard import Shard
from kneegrade.errors import KneeGradeError
from kneegrade.files import make_directory, replacing

FILMS_PER_PART: Final = 200
SECONDS_PER_PART: Final = 30.0
ORDER: Final = ("knees", "log", "films")  # the films last: they tell what is finished


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


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part.

    Raises:
        KneeGradeError: it is damaged.
    """
    try:
        with pq.ParquetFile(path) as part:
            return part.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise KneeGradeError(
            f"{path.parent.name}/{path.name} is damaged ({type(error).__name__}). Remove the files of this name in "
            "knees, log and films, and run again: their films are graded again."
        ) from None


def _finished(directory: Path) -> set[str]:
    """Names of the complete parts of `films`, which are written last."""
    return {path.name for path in (directory / "films").glob("[!.]*.parquet")}


def parts(directory: Path, table: str) -> dict[str, Path]:
    """Name → path of the complete parts of a table, sorted; parts without a part of `films` are left out."""
    finished = _finished(directory)
    return {path.name: path for path in sorted((directory / table).glob("[!.]*.parquet")) if path.name in finished}


def read_table(directory: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a table.

    Raises:
        KneeGradeError: a part is damaged.
    """
    found = [read_part(path, columns) for path in parts(directory, table).values()]
    if not found:
        schema = table_schema(table)
        return (schema if columns is None else pa.schema([schema.field(one) for one in columns])).empty_table()
    return pa.concat_tables(found)


def clean(directory: Path, shard: Shard) -> int:
    """Number of film rows removed to be graded again, after what a killed run left in the shard's files was removed.

    Removed are parts of `knees` and `log` without a part of `films`, temporary files, and rows of films that could not
    be read at all (they have no SHA-256), perhaps because a disk or network was away.
    """
    finished, again = _finished(directory), 0
    for table in TABLES:
        for path in (directory / table).glob("*"):
            name = path.name.removeprefix(".")
            is_temporary = path.name.startswith(".")
            if _is_of(name, shard) and (is_temporary or (table != "films" and name not in finished)):
                path.unlink(missing_ok=True)
    for name, path in parts(directory, "films").items():
        if _is_of(name, shard):
            again += _remove_unread(directory, name, path)
    return again


def _remove_unread(directory: Path, name: str, path: Path) -> int:
    unread = pc.is_null(read_part(path, ["sha256"])["sha256"])
    number = int(pc.sum(unread).as_py() or 0)
    if number == len(unread):
        for each in reversed(ORDER):
            (directory / each / name).unlink(missing_ok=True)
    elif number:
        for part in (path, directory / "log" / name):
            rows = read_part(part)
            write_part(part, rows.filter(pc.is_valid(rows["sha256"])))
    return number


def _is_of(name: str, shard: Shard) -> bool:
    """Whether all films of a part belong to the shard."""
    number, _, rest = name.partition("-of-")
    count = rest.partition("-")[0]
    return number.isdigit() and count.isdigit() and shard.covers(Shard(int(number), int(count)))


def finished_films(directory: Path, shard: Shard) -> Mapping[str, list[Row]]:
    """Name → the finished films of this name (several if the file was replaced) of a shard.

    A film has `sha256`, `version` of the file, and `all_graded` (`is_all_graded`).
    """
    versions = {}
    log = read_table(directory, "log", ["source", "sha256", "version"])
    for source, sha256, version in zip(*(log[name].to_pylist() for name in log.column_names), strict=True):
        if source in shard:
            versions[source, sha256] = version
    found: dict[str, list[Row]] = {}
    films = read_table(directory, "films", ["source", "sha256", "status", "knees", "knees_graded", "warnings"])
    for values in zip(*(films[name].to_pylist() for name in films.column_names), strict=True):
        film = dict(zip(films.column_names, values, strict=True))
        source, sha256 = film["source"], film["sha256"]
        if source in shard:
            row = {"sha256": sha256, "version": versions.get((source, sha256)), "all_graded": is_all_graded(film)}
            found.setdefault(source, []).append(row)
    return found
