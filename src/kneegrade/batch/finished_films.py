"""`finished_films`: what earlier runs know about the films of a shard, in little memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kneegrade.batch.result_parts import parts, read_part
from kneegrade.batch.rows import is_all_graded
from kneegrade.batch.shard import Shard

_SCHEMA: Final = pa.schema({
    "source": pa.large_string(), "sha256": pa.large_string(), "version": pa.large_string(), "all_graded": pa.bool_(),
})  # fmt: skip


class EarlierFilm(NamedTuple):
    """A row of an earlier run.

    Attributes:
        sha256: of the film's bytes.
        version: state of its file; None if it is not known.
        all_graded: whether all its knees have grades, see `is_all_graded`.
    """

    sha256: str | None
    version: str | None
    all_graded: bool


class FinishedFilms:
    """The finished films of a shard by name, in columns: there may be millions, and objects take several times as much.

    Args:
        tables: rows with the columns `source`, `sha256`, `version` and `all_graded`.
    """

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        columns = ([table[name].combine_chunks() for table in tables] for name in _SCHEMA.names)
        self._names, *self._values = (pa.concat_arrays(chunks) for chunks in columns)

    def of(self, names: Sequence[str]) -> Iterator[list[EarlierFilm]]:
        """For each name, all different, the finished films: none, one, or several if the file was replaced."""
        place = pc.index_in(self._names, value_set=pa.array(names, self._names.type)).fill_null(len(names)).to_numpy()
        order = np.argsort(place, kind="stable")  # the rows in the order of `names`
        ends = np.searchsorted(place[order], np.arange(len(names)), side="right")
        start = 0
        for end in ends:
            yield [EarlierFilm(*(column[row].as_py() for column in self._values)) for row in order[start:end]]
            start = end


def finished_films(directory: Path, shard: Shard) -> FinishedFilms:
    """The finished films of a shard; parts that have none are not opened.

    Raises:
        KneeGradeError: a part is damaged.
    """
    found = [_SCHEMA.empty_table()]
    for name, path in parts(directory, "films", shard).items():
        films = read_part(path, ["source", "sha256", "status", "knees", "knees_graded", "warnings"])
        log = read_part(directory / "log" / name, ["source", "sha256", "version"])
        if films is not None:
            found.append(_table(films, log, shard))
    return FinishedFilms(found)


def _table(films: pa.Table, log: pa.Table | None, shard: Shard) -> pa.Table:
    versions = {(row["source"], row["sha256"]): row["version"] for row in (log.to_pylist() if log is not None else ())}
    rows = [
        {
            "source": film["source"], "sha256": film["sha256"], "all_graded": is_all_graded(film),
            "version": versions.get((film["source"], film["sha256"])),
        }
        for film in films.to_pylist() if film["source"] in shard
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _SCHEMA)
