"""Part files: what a kill leaves behind, and other programs that read the tables."""

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worker_faults import rows_of

from kneegrade.batch import read_table, result_parts
from kneegrade.batch.parquet import KNEES
from kneegrade.batch.result_parts import PartWriter, clean, finished_films
from kneegrade.batch.shard import Shard
from kneegrade.errors import KneeGradeError, UsageError

ALL = Shard()


def write(directory, *names, shard=ALL, sha256="00"):
    writer = PartWriter(directory, shard)
    for name in names:
        writer.add(rows_of(name, sha256))
    writer.flush()


def sources(directory, table="films"):
    return sorted(read_table(directory, table, ["source"])["source"].to_pylist())


def test_a_part_is_written_after_enough_films_or_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(result_parts, "FILMS_PER_PART", 2)
    writer = PartWriter(tmp_path, ALL)
    writer.add(rows_of("a"))
    assert sources(tmp_path) == []
    writer.add(rows_of("b"))
    assert sources(tmp_path) == ["a", "b"]
    writer.add(rows_of("c"))
    monkeypatch.setattr(result_parts, "SECONDS_PER_PART", 0.0)
    writer.flush_if_due()
    assert sources(tmp_path) == sources(tmp_path, "knees") == sources(tmp_path, "log") == ["a", "b", "c"]


def test_knees_without_their_films_are_not_read_and_are_removed(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    lost = next(path for path in (tmp_path / "films").iterdir() if sources_of(path) == ["b"])
    lost.unlink()  # as after a kill between the renaming of the two files
    (tmp_path / "films" / f".{lost.name[:20]}.0123.tmp").write_bytes(b"half a file")
    assert sources(tmp_path, "knees") == ["a"]
    clean(tmp_path, ALL)
    assert [len(list((tmp_path / table).iterdir())) for table in ("knees", "log", "films")] == [1, 1, 1]


def sources_of(path):
    return pq.read_table(path)["source"].to_pylist()


def test_a_shard_leaves_the_files_of_other_shards_alone(tmp_path):
    for number in (1, 2):
        write(tmp_path, f"film{number}", shard=Shard(number, 2))
    for path in (tmp_path / "films").iterdir():
        path.unlink()
    clean(tmp_path, Shard(1, 2))
    assert [path.name[:6] for path in (tmp_path / "knees").iterdir()] == ["2-of-2"]
    clean(tmp_path, ALL)
    assert list((tmp_path / "knees").iterdir()) == []


def test_films_that_could_not_be_read_are_tried_again(tmp_path):
    writer = PartWriter(tmp_path, ALL)
    for name, sha256 in (("a", "00"), ("away", None)):
        writer.add(rows_of(name, sha256))
    writer.flush()
    write(tmp_path, "gone", sha256=None)
    assert clean(tmp_path, ALL) == 2
    assert sources(tmp_path) == sources(tmp_path, "log") == ["a"]
    assert set(finished_films(tmp_path, ALL)) == {"a"}


def test_a_damaged_part_is_named(tmp_path):
    write(tmp_path, "a")
    (part,) = (tmp_path / "films").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(KneeGradeError, match=rf"films/{part.name} is damaged .* run again"):
        read_table(tmp_path, "films")


def test_rows_survive_a_full_disk(tmp_path, monkeypatch):
    writer = PartWriter(tmp_path, ALL)
    writer.add(rows_of("a"))
    with monkeypatch.context() as full:
        full.setattr(result_parts.pq, "write_table", raise_no_space)
        with pytest.raises(UsageError, match="No space left"):
            writer.flush()
    assert not list((tmp_path / "knees").iterdir())
    writer.flush()
    assert sources(tmp_path) == ["a"]


def raise_no_space(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_duckdb_pandas_and_polars_read_the_tables_in_one_line(tmp_path):
    write(tmp_path, "a", "b")
    write(tmp_path, "c")
    names = [column.name for column in KNEES]
    by_pandas = pd.read_parquet(tmp_path / "knees")
    by_polars = pl.read_parquet(tmp_path / "knees" / "*.parquet")
    by_duckdb = duckdb.sql(f"select * from '{tmp_path}/knees/*.parquet'").arrow()
    tables = [pa.Table.from_pandas(by_pandas), by_polars.to_arrow(), pa.table(by_duckdb)]
    for table in tables:
        assert table.column_names == names
        assert sorted(table["source"].to_pylist()) == ["a", "b", "c"]
        assert table["kl"].to_pylist() == [2, 2, 2]
