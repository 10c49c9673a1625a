"""Part files: what a kill leaves behind, and other programs that read the tables."""

import os
import stat
import subprocess
import sys
from collections import Counter

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worker_faults import rows_of

from kneegrade.batch import read_table, result_parts
from kneegrade.batch.finished_films import finished_films
from kneegrade.batch.parquet import KNEES
from kneegrade.batch.result_parts import ORDER, PartWriter, clean, part_tables, record_versions
from kneegrade.batch.shard import Shard
from kneegrade.errors import KneeGradeError, UsageError

ALL = Shard()
HALVES = Shard(1, 2), Shard(2, 2)
FIRST, SECOND = (next(name for i in range(99) if (name := f"film{i}.png") in half) for half in HALVES)


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
    assert [len(films) for films in finished_films(tmp_path, ALL).of(["away", "a", "gone"])] == [0, 1, 0]


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


def test_a_narrower_shard_removes_the_unread_films_of_a_run_over_all_that_belong_to_it(tmp_path):
    writer = PartWriter(tmp_path, ALL)
    for name, sha256 in (("a", "00"), (FIRST, None), (SECOND, None)):
        rows = rows_of(name, sha256)
        rows.knees.extend([] if sha256 else [{"source": name, "sha256": None, "knee": 0}])  # the checksum alone failed
        writer.add(rows)
    writer.flush()
    assert clean(tmp_path, HALVES[0]) == 1
    assert sources(tmp_path) == sources(tmp_path, "knees") == sources(tmp_path, "log") == sorted(["a", SECOND])
    assert clean(tmp_path, HALVES[0]) == 0
    assert clean(tmp_path, HALVES[1]) == 1
    assert sources(tmp_path) == sources(tmp_path, "knees") == sources(tmp_path, "log") == ["a"]


def test_a_narrower_shard_removes_what_a_killed_run_over_all_left(tmp_path):
    write(tmp_path, FIRST, SECOND)
    (part,) = (tmp_path / "films").iterdir()
    part.rename(tmp_path / "films" / f".{part.name[:20]}.0123.tmp")
    clean(tmp_path, HALVES[0])
    assert [list((tmp_path / table).iterdir()) for table in ORDER] == [[], [], []]


@pytest.mark.parametrize("lost", ["knees", "log"])
def test_films_whose_knees_were_lost_with_the_power_are_graded_again(lost, tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    for path in (tmp_path / lost).iterdir():
        if sources_of(path) == ["b"]:
            path.unlink()
    clean(tmp_path, ALL)
    assert [sources_of(path) for table in ORDER for path in (tmp_path / table).iterdir()] == [["a"]] * 3


def test_the_names_of_a_part_reach_the_disk_in_the_order_of_the_tables(tmp_path, monkeypatch):
    fsync, found = os.fsync, []

    def look(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            found.append([len(list((tmp_path / table).glob("*.parquet"))) for table in ORDER])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    write(tmp_path, "a")
    assert found == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_parts_of_other_shards_are_not_opened_to_find_the_finished_films(tmp_path):
    for name, half in zip((FIRST, SECOND), HALVES, strict=True):
        write(tmp_path, name, shard=half)
    write(tmp_path, FIRST + "x", SECOND + "x")
    for path in (tmp_path / "films").glob("2-of-2*"):
        path.write_bytes(b"damaged")
    names = [FIRST, SECOND, *(name + "x" for name in (FIRST, SECOND) if name + "x" in HALVES[0])]
    found = dict(zip(names, finished_films(tmp_path, HALVES[0]).of(names), strict=True))
    assert [name for name, films in found.items() if films] == [name for name in names if name in HALVES[0]]


def test_a_part_that_another_run_removes_meanwhile_has_no_rows(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    rows = part_tables(tmp_path, "films")
    first = next(rows)["source"].to_pylist()
    for path in (tmp_path / "films").iterdir():
        if sources_of(path) != first:
            path.unlink()
    assert list(rows) == []


def test_a_part_that_the_system_refuses_to_read_is_not_called_damaged(tmp_path):
    write(tmp_path, "a")
    (part,) = (tmp_path / "films").iterdir()
    part.unlink()
    part.symlink_to(part)
    with pytest.raises(KneeGradeError, match=r"cannot be read .*Check the permissions and the disk") as caught:
        read_table(tmp_path, "films")
    assert "Remove" not in str(caught.value)


def test_the_new_state_of_files_is_recorded_in_the_log_only(tmp_path):
    write(tmp_path, "a", "b")
    before = {path: path.read_bytes() for table in ("knees", "films") for path in (tmp_path / table).iterdir()}
    record_versions(tmp_path, ALL, {("b", "00"): "2", ("a", "11"): "3"})
    log = read_table(tmp_path, "log")
    assert dict(zip(log["source"].to_pylist(), log["version"].to_pylist(), strict=True)) == {"a": "1", "b": "2"}
    assert {path: path.read_bytes() for path in before} == before


def test_rows_of_a_replaced_film_are_found_together(tmp_path):
    write(tmp_path, "a", "b")
    write(tmp_path, "b", sha256="11")
    found = finished_films(tmp_path, ALL).of(["c", "b", "a"])
    assert [sorted(film.sha256 for film in films) for films in found] == [[], ["00", "11"], ["00"]]


SHARD = """
import sys
from pathlib import Path
from kneegrade.batch.finished_films import finished_films
from kneegrade.batch.result_parts import clean, read_table, record_versions
from kneegrade.batch.run_file import OutputLock
from kneegrade.batch.shard import Shard
directory, shard = Path(sys.argv[1]), Shard.parse(sys.argv[2])
lock = OutputLock(directory)
lock.lock_shard(shard)
print("ready", flush=True)
names = [name for name in input().split() if name in shard]
clean(directory, shard, lock.parts)
read = [name for name, films in zip(names, finished_films(directory, shard).of(names)) if films]
record_versions(directory, shard, {(name, "00"): "2" for name in read}, lock.parts)
read_table(directory, "knees")
"""


@pytest.mark.slow
def test_shards_that_begin_at_the_same_time_change_the_parts_of_a_run_over_all_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(result_parts, "FILMS_PER_PART", 5)
    names = [f"f{i}" for i in range(300)]
    writer = PartWriter(tmp_path, ALL)
    for i, name in enumerate(names):
        writer.add(rows_of(name, "00" if i > 50 and i % 3 else None))
    writer.flush()
    commands = [[sys.executable, "-c", SHARD, str(tmp_path), f"{i}/3"] for i in (1, 2, 3)]
    runs = [subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in commands]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 3
    for run in runs:
        run.stdin.write(" ".join(names) + "\n")
        run.stdin.flush()
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0, 0, 0]
    expected = Counter(name for i, name in enumerate(names) if i > 50 and i % 3)
    assert [Counter(sources(tmp_path, table)) for table in ORDER] == [expected] * 3
    assert set(read_table(tmp_path, "log")["version"].to_pylist()) == {"2"}
