"""`plan_films`: INPUT → the films of a shard in a reproducible order, each with a name that occurs once.

An input is a file, folder or zip archive (`kneegrade.imaging.find_sources`), a URL (`remote_files`), or a table with a
column of paths (`film_table`), whose other columns travel to the results. The URL of an archive is a query
(`web_films`).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from kneegrade.batch.film_table import FilmTable, is_film_table, read_film_table, table_name
from kneegrade.batch.remote_files import (
    distinct_names,
    is_url,
    lasting_url,
    remote_source,
    remote_sources,
    without_secrets,
)
from kneegrade.batch.shard import Shard
from kneegrade.batch.web_films import archive_films, is_archive
from kneegrade.errors import UsageError
from kneegrade.imaging import Source, find_sources
from kneegrade.imaging.sources import shown_name

StopCount = Callable[[], int]  # number of signals so far: 0 go on, 1 finish what is under way, 2 stop at once


@dataclass(frozen=True, slots=True)
class PlannedFilm:
    """A film to grade.

    Attributes:
        source: where it is; `source.name` occurs once in a plan.
        columns: names and values of the user's table.
    """

    source: Source
    columns: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Plan:
    """The films of a shard.

    Attributes:
        films: in a reproducible order.
        total: number of films of all shards.
        fields: columns of the user's table, without that of the paths.
    """

    films: list[PlannedFilm]
    total: int
    fields: tuple[pa.Field, ...] = ()


def plan_films(
    inputs: Sequence[str], *, shard: Shard | None = None, path_column: str | None = None,
    columns: Sequence[str] | None = None, stop: StopCount = lambda: 0,
) -> Plan:  # fmt: skip
    """The plan for some inputs.

    Args:
        inputs: paths or URLs of films, folders, archives; or one table (CSV, Parquet), alone; it may be a pipe.
        shard: keep these films only.
        path_column: column of the table that holds paths or URLs; None: the first of `film_table.PATH_COLUMNS`.
        columns: columns of the table that travel to the results; None: all others.
        stop: number of signals to stop so far.

    Raises:
        KeyboardInterrupt: there was a signal.
        UsageError: an input does not exist or cannot be read, or there is no film.
    """
    tables = [one for one in inputs if is_film_table(one)]
    if tables and len(inputs) > 1:
        raise UsageError(f"{table_name(tables[0])} is a table of films; give it as the only input.")
    if not tables and (path_column or columns is not None):
        raise UsageError("The input is no table (CSV, Parquet); a column of paths can only be given with a table.")
    table = read_film_table(tables[0], path_column, columns) if tables else FilmTable()
    found = _table_films(table) if tables else (PlannedFilm(source) for source in _sources(inputs))
    films, total = list[PlannedFilm](), 0
    for film in _with_unique_names(found):
        if stop():
            raise KeyboardInterrupt
        total += 1
        if shard is None or film.source.name in shard:
            films.append(film)
    if not total:
        raise UsageError(
            "No radiograph was found in the input; give DICOM, PNG, JPEG or TIFF files, folders, zip files or URLs "
            "that contain them, or a table with their paths."
        )
    return Plan(films, total, table.fields)


def _sources(inputs: Sequence[str]) -> Iterator[Source]:
    """The films of paths and URLs."""
    if not any(is_url(one) for one in inputs):
        yield from find_sources(inputs)
        return
    archived = set[str]()  # several queries may find one film
    own_names = [shown_name(Path(without_secrets(one)).name) for one in inputs]
    keys = [lasting_url(one) if is_url(one) else os.path.realpath(one) for one in inputs]
    names = distinct_names(list(zip(own_names, keys, strict=True)))
    for one, own_name, name in zip(inputs, own_names, names, strict=True):
        if is_archive(one):
            new = [source for source in archive_films(one) if source.name not in archived]
            archived |= {source.name for source in new}
            yield from new
            continue
        for source in remote_sources(one) if is_url(one) else find_sources([one]):
            below = name if source.name == own_name else f"{name}/{source.name}"
            yield source if len(inputs) == 1 else replace(source, name=below)


def _table_films(table: FilmTable) -> Iterator[PlannedFilm]:
    for name, location, values in table.rows:
        source = remote_source(name, location) if is_url(location) else Source(name, Path(location))
        yield PlannedFilm(source, tuple(zip(table.names, values, strict=True)))


def _with_unique_names(films: Iterable[PlannedFilm]) -> Iterator[PlannedFilm]:
    """The films; of several films with one name (members of an archive, say), the later ones get a number."""
    seen, numbers = set[str](), dict[str, int]()
    for film in films:
        given = name = film.source.name
        while name in seen:
            numbers[given] = numbers.get(given, 1) + 1
            name = f"{given} ({numbers[given]})"
        seen.add(name)
        yield film if name == given else replace(film, source=replace(film.source, name=name))
