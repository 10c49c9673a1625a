"""`read_film_table`: a table of films (CSV or Parquet) with a column of paths, whose other columns travel along."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from kneegrade.batch.remote_files import is_url, open_url
from kneegrade.cohorts.table_files import decoded
from kneegrade.errors import UsageError
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
    path = Path(location.partition("?")[0])
    return path.suffix.lower() in TABLE_SUFFIXES or is_shell_pipe(path)


def table_name(location: str) -> str:
    """The name of a table of films for messages."""
    if is_shell_pipe(Path(location)):
        return f"The table in the pipe {location}"
    return shown_name(Path(location.partition("?")[0]).name)


def read_film_table(location: str, path_column: str | None, columns: Sequence[str] | None) -> FilmTable:
    """The films of a table.

    A relative path is relative to the folder of the table, or to the current folder if a shell's pipe holds the table.
    It is also the film's name; a path outside of this folder is the name as a whole. Rows that repeat a path (a row per
    knee, say) are one film.

    Args:
        location: path or URL of the table.
        path_column: name of the column of paths; None: the first of `PATH_COLUMNS` that the table has.
        columns: columns that travel to the results; None: all others.

    Raises:
        UsageError: the table cannot be read, lacks a column or a path, or rows of one path differ in another column.
    """
    table, name = _read(location), table_name(location)
    known = path_column or next((one for one in PATH_COLUMNS if one in table.column_names), " or ".join(PATH_COLUMNS))
    kept = [one for one in table.column_names if one != known] if columns is None else list(columns)
    missing = [one for one in (known, *kept) if one not in table.column_names]
    if missing:
        raise UsageError(f"{name} has no column {missing[0]}. Its columns are {', '.join(table.column_names)}.")
    films: dict[str, tuple[Any, ...]] = {}
    cells = zip(*(table.column(one).to_pylist() for one in (known, *kept)), strict=True)
    for number, (path, *row) in enumerate(cells, start=2):
        if not isinstance(path, str) or not path:
            raise UsageError(f"Row {number} of {name} has no path in the column {known}; fill it in or remove the row.")
        values = films.setdefault(path, tuple(row))
        differing = [one for one, a, b in zip(kept, values, row, strict=True) if a != b and a == a]  # not NaN
        if differing:
            raise UsageError(
                f"Row {number} of {name} has another value of {differing[0]} than an earlier row of the same film. A "
                f"film is one row of the results; choose other columns with --columns."
            )
    rows = tuple((*_name_and_location(path, location), values) for path, values in films.items())
    return FilmTable(rows, tuple(table.schema.field(one) for one in kept))


def _read(location: str) -> pa.Table:
    """The table; all cells of a CSV file are texts, separated as in its header by the most frequent of `,;` and tab."""
    path = location.partition("?")[0] if is_url(location) else location
    try:
        with open_url(location) if is_url(location) else Path(location).open("rb") as stream:
            data = stream.read()
        if Path(path).suffix.lower() == ".parquet" or data.startswith(_PARQUET_MAGIC):
            return pyarrow.parquet.read_table(pa.BufferReader(data))
        text = decoded(data)
        separator = max(",;\t", key=text.partition("\n")[0].count)
        cells = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
        return pa.Table.from_pandas(cells, pa.schema([(one, pa.string()) for one in cells.columns]))
    except FileNotFoundError:
        raise UsageError(f"{shown_name(path)} does not exist; check the path.", code="no_such_file") from None
    except UnicodeError:
        raise UsageError(f"{table_name(location)} is no text in UTF-8, UTF-16 or Latin-1; save it as UTF-8.") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        kind = type(error).__name__
        raise UsageError(
            f"{table_name(location)} cannot be read as a table ({kind}); give CSV with a header, or Parquet."
        ) from None


def _name_and_location(path: str, table: str) -> tuple[str, str]:
    """The name of a film for the results, and its path or URL."""
    if is_url(path):
        return shown_name(path.partition("://")[2].partition("?")[0]), path
    if is_url(table):
        return shown_name(path), f"{table.partition('?')[0].rpartition('/')[0]}/{path}"
    folder = os.getcwd() if is_shell_pipe(Path(table)) else os.path.dirname(os.path.abspath(table))
    location = os.path.join(folder, path)  # an absolute path remains as it is
    inside = Path(location).is_relative_to(folder)
    return shown_name(os.path.relpath(location, folder) if inside else path), location
