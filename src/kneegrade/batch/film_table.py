"""`read_film_table`: a table of films (CSV or Parquet) with a column of paths, whose other columns travel along."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from kneegrade.batch.remote_files import RemoteFile, distinct_names, is_url, lasting_url, without_secrets
from kneegrade.cohorts.table_files import parse_text
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.files import is_shell_pipe
from kneegrade.imaging.sources import shown_name

TABLE_SUFFIXES: Final = frozenset({".csv", ".parquet"})
_PARQUET_MAGIC: Final = b"PAR1"
PATH_COLUMNS: Final = ("path", "image_path", "file", "film", "filename", "url")


@dataclass(frozen=True)
class FilmTable:
    """The films of a table.

    Attributes:
        rows: for each film its name, its path or URL, and the values of the columns that travel along.
        fields: names and types of these columns. Those of a CSV file are texts, so that "007" remains "007".
    """

    rows: tuple[tuple[str, str, tuple[Any, ...]], ...] = ()
    fields: tuple[pa.Field, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that travel along."""
        return tuple(field.name for field in self.fields)


def is_film_table(location: str) -> bool:
    """Whether an input is a table of films: a CSV or Parquet file, or a pipe that a shell opened."""
    path = Path(without_secrets(location))
    return path.suffix.lower() in TABLE_SUFFIXES or is_shell_pipe(path)


def table_name(location: str) -> str:
    """The name of a table of films for messages."""
    if is_shell_pipe(Path(location)):
        return f"The table in the pipe {location}"
    return shown_name(Path(without_secrets(location)).name)


def read_film_table(location: str, path_column: str | None, columns: Sequence[str] | None) -> FilmTable:
    """The films of a table.

    A relative path is relative to the folder of the table, or to the current folder if a shell's pipe holds the table.
    It is also the film's name; a path outside of this folder is the name as a whole, and a URL without user and query.
    Rows that repeat a path (a row per knee, say), or a URL with another signature, are one film. Films that would have
    the same name, such as URLs that differ in the query, get a part of the SHA-256 of their path or URL
    (`distinct_names`).

    Args:
        location: path or URL of the table.
        path_column: name of the column of paths; None: the first of `PATH_COLUMNS` that the table has.
        columns: columns that travel to the results; None: all others that have a name.

    Raises:
        UsageError: the table cannot be read, lacks a column or a path, has a column twice, or rows of one path differ
            in another column.
    """
    (table, numbers), name = _read(location), table_name(location)
    known = path_column or next((one for one in PATH_COLUMNS if one in table.column_names), " or ".join(PATH_COLUMNS))
    kept = [one for one in table.column_names if one not in (known, "")] if columns is None else list(columns)
    _check_columns(table, [known, *kept], name)
    cells = zip(numbers, *(table.column(one).to_pylist() for one in (known, *kept)), strict=True)
    films = _films(cells, [known, *kept], location)
    names = distinct_names([(film, key) for key, (film, _, _) in films.items()])
    rows = tuple((film, place, row) for film, (_, place, row) in zip(names, films.values(), strict=True))
    return FilmTable(rows, tuple(table.schema.field(one) for one in kept))


def _films(
    rows: Iterable[tuple[Any, ...]], columns: Sequence[str], location: str
) -> dict[str, tuple[str, str, tuple[Any, ...]]]:
    """Key → name, path or URL, and other values of each film, from numbers, paths and other values of rows."""
    films: dict[str, tuple[str, str, tuple[Any, ...]]] = {}
    for number, path, *row in rows:
        where = f"Row {number} of {table_name(location)}"
        if not isinstance(path, str) or not path:
            raise UsageError(f"{where} has no path in the column {columns[0]}; fill it in or remove the row.")
        film, key, place = _name_key_and_place(path, location)
        _, _, values = films.setdefault(key, (film, place, tuple(row)))
        differing = [one for one, a, b in zip(columns[1:], values, row, strict=True) if a != b and a == a]  # not NaN
        if differing:
            raise UsageError(
                f"{where} has another value of {differing[0]} than an earlier row of the same film. A film is one row "
                "of the results; choose other columns with --columns."
            )
    return films


def _check_columns(table: pa.Table, columns: Sequence[str], name: str) -> None:
    """Raises a UsageError if the table does not have each of the columns once."""
    for column in columns:
        number = table.column_names.count(column)
        if number == 0:
            raise UsageError(f"{name} has no column {column}. Its columns are {', '.join(table.column_names)}.")
        if number > 1:
            raise UsageError(f"{name} has the column {column} {number} times. Rename or remove one of them.")


def _read(location: str) -> tuple[pa.Table, Sequence[int]]:
    """The table, and the number of each row for messages; all cells of a CSV file are texts."""
    name = table_name(location)
    try:
        data = RemoteFile(location)() if is_url(location) else Path(location).read_bytes()
        if Path(without_secrets(location)).suffix.lower() == ".parquet" or data.startswith(_PARQUET_MAGIC):
            table = pyarrow.parquet.read_table(pa.BufferReader(data))
            return table, range(2, len(table) + 2)
        cells = parse_text(data)
        header = [one.strip() for one in cells.columns]
        texts = [pa.array(cells.iloc[:, i].tolist(), pa.string()) for i in range(len(header))]
    except KneeGradeError as error:
        raise UsageError(f"{name} cannot be read. {error.message}", code=error.code) from None
    except FileNotFoundError:
        raise UsageError(f"{shown_name(location)} does not exist; check the path.", code="no_such_file") from None
    except UnicodeError:
        raise UsageError(f"{name} is no text in UTF-8, UTF-16 or Latin-1; save it as UTF-8.") from None
    except (OSError, pa.ArrowException) as error:
        kind = type(error).__name__
        raise UsageError(f"{name} cannot be read as a table ({kind}); give CSV with a header, or Parquet.") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{name} cannot be read as a table: {error}. Give CSV with a header, or Parquet.") from None
    if not header:
        raise UsageError(f"{name} cannot be read as a table: it is empty. Give CSV with a header, or Parquet.")
    return pa.Table.from_arrays(texts, header), cells.index.tolist()


def _name_key_and_place(path: str, table: str) -> tuple[str, str, str]:
    """The name of a film for the results, its key (the same for all paths of the film), and its path or URL."""
    if is_url(path):
        return shown_name(without_secrets(path).partition("://")[2]), lasting_url(path), path
    if is_url(table):
        below = path.removeprefix("./")
        place = f"{table.partition('?')[0].rpartition('/')[0]}/{below}"
        return shown_name(below.partition("?")[0]), lasting_url(place), place
    folder = os.getcwd() if is_shell_pipe(Path(table)) else os.path.dirname(os.path.abspath(table))
    place = os.path.join(folder, path)  # an absolute path remains as it is
    relative = os.path.relpath(place, folder)
    return shown_name(relative if Path(place).is_relative_to(folder) else path), relative, place
