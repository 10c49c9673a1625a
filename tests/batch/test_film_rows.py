"""Rows of really graded films, and the summary that is made from them."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kneegrade import Grader
from kneegrade.anatomy import UserHints
from kneegrade.batch import film_task, read_table, write_summary
from kneegrade.batch.film_task import FilmTask, ObjectSettings, content_version, failed_rows, film_rows
from kneegrade.batch.parquet import KNEES
from kneegrade.batch.plan import PlannedFilm
from kneegrade.batch.remote_files import RemoteFile
from kneegrade.batch.result_parts import PartWriter
from kneegrade.batch.rows import FilmRows
from kneegrade.batch.shard import Shard
from kneegrade.batch.summary import ReviewedKnee, choose
from kneegrade.clinical import Job, ObjectWriter
from kneegrade.imaging import Source
from kneegrade.imaging.sources import sha256_of
from kneegrade.results import Finding
from kneegrade.schema import TARGET_NAMES

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader("cpu")


def planned(name, **columns):
    return PlannedFilm(Source(name, EXAMPLES / name), tuple(columns.items()))


@pytest.fixture(scope="module")
def written(grader, tmp_path_factory):
    """Folder with the tables of two examples and a missing film, which carry columns of a table."""
    folder = tmp_path_factory.mktemp("tables")
    fields = [pa.field("subject", pa.string()), pa.field("visit", pa.int64())]
    writer = PartWriter(folder, Shard(), fields)
    films = [planned(name, subject="007", visit=12) for name in ("bilateral.dcm", "single_right.dcm", "missing.dcm")]
    for film in films:
        writer.add(film_rows(grader, film, UserHints()))
    writer.flush()
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder, films


RUN = {
    "versions": {"kneegrade": "1"}, "runtime": "torch", "precision": "float32", "device": "cpu",
    "weights": {"grader": {"name": "w", "sha256": "00"}},
}  # fmt: skip


def test_columns_of_the_users_table_and_types(written):
    folder, _ = written
    knees, films = (read_table(folder, table) for table in ("knees", "films"))
    for table in (knees, films):
        assert set(table["input_subject"].to_pylist()) == {"007"}
        assert set(table["input_visit"].to_pylist()) == {12}
    assert knees.schema.field("landmarks_px").type == pa.list_(pa.float32())
    assert not any(pa.types.is_float64(field.type) for field in knees.schema)
    assert [knees.num_rows, films.num_rows] == [3, 3]


def test_lists_have_their_stated_lengths_or_are_null_and_none_has_a_fixed_size(written, tmp_path):
    folder, _ = written
    graded = read_table(folder, "knees")
    writer = PartWriter(tmp_path, Shard(), [pa.field("at", pa.list_(pa.int8(), 2))])
    writer.add(FilmRows({}, [{**graded.to_pylist()[0], "input_at": [1, 2]}, {"status": "not_gradable"}], {}))
    writer.flush()
    knees = pq.read_table(tmp_path / "knees")  # pyarrow before 26 fails here if a null list has a fixed size
    assert not any(pa.types.is_fixed_size_list(field.type) for field in knees.schema)
    assert knees["input_at"].to_pylist() == [[1, 2], None]
    for column in KNEES:
        if column.length is not None:
            whole, missing = knees[column.name].to_pylist()
            assert missing is None
            assert len(whole) == column.length, column.name


def test_the_log_tells_how_a_film_was_done_and_nothing_about_the_patient(written):
    folder, films = written
    log = read_table(folder, "log").to_pandas().set_index("source")
    assert list(log.columns) == ["sha256", "seconds", "cpu_seconds", "attempts", "host", "finished", "version"]
    assert (log["seconds"] > 0).all()
    assert log.loc["bilateral.dcm", "version"] == content_version(films[0])
    assert pd.isna(log.loc["missing.dcm", "version"])


def test_an_error_while_rows_are_made_is_a_row(grader, monkeypatch):
    rows_of, calls = film_task.rows_of, []

    def broken(film, graded):
        calls.append(graded.status)
        return rows_of(film, graded) if len(calls) > 1 else 1 / 0

    monkeypatch.setattr(film_task, "rows_of", broken)
    rows = film_rows(grader, planned("missing.dcm"), UserHints())
    assert (rows.film["status"], rows.film["reason_code"], rows.knees) == ("failed", "internal", [])


def test_a_path_with_a_zero_byte_is_a_row(grader):
    film = PlannedFilm(Source("a?b.dcm", Path("a\0b.dcm")))
    assert content_version(film) is None
    row = film_rows(grader, film, UserHints()).film
    assert (row["status"], row["sha256"]) == ("failed", None)
    reason = Finding("worker_died", "The process died.")
    assert film_task.failed_rows(film, reason, 3).log["version"] is None


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("Smith")])
def test_any_error_of_the_objects_is_a_row_that_the_next_run_tries_again(error, grader):
    def broken(source, film, radiograph=None):
        raise error

    rows = film_rows(grader, planned("single_right.dcm"), UserHints(), broken)
    assert (rows.film["status"], rows.film["reason_code"], rows.film["sha256"]) == ("failed", "internal", None)
    assert str(error) not in rows.film["reason"]


def test_a_worker_writes_objects_and_gives_the_same_bytes_again(tmp_path, monkeypatch, grader):
    monkeypatch.setattr("kneegrade.grader.Grader", lambda *arguments, **options: grader)
    when, film = datetime(2026, 1, 1, tzinfo=UTC), planned("single_right.dcm")
    contents = []
    for name in ("once", "again"):
        task = FilmTask(objects=ObjectSettings(tmp_path / name, ("fhir",), when))
        assert task.start()(film).film["status"] == "graded"
        contents.append((tmp_path / name / "fhir" / "single_right.dcm.fhir.json").read_bytes())
    assert contents[0] == contents[1]


def test_a_film_whose_objects_cannot_be_written_is_tried_again_by_the_next_run(tmp_path, grader):
    (tmp_path / "fhir").write_text("a file in the way")
    write = ObjectWriter(tmp_path, ["fhir"], Job.of(grader, datetime(2026, 1, 1, tzinfo=UTC)))
    rows = film_rows(grader, planned("single_right.dcm"), UserHints(), write)
    assert (rows.film["status"], rows.film["sha256"], rows.knees) == ("failed", None, [])
    assert rows.film["reason_code"] == "not_writable"


def wait_without_end():
    Event().wait()
    return b""


@pytest.mark.parametrize("load", [wait_without_end, RemoteFile((EXAMPLES / "single_right.dcm").as_uri())])
def test_a_film_that_does_not_answer_or_is_remote_gets_its_row_without_checksum(load):
    film = PlannedFilm(Source("film", load=load))
    rows = failed_rows(film, Finding("worker_timeout", "It takes too long."), 3, seconds=0.5)
    assert (rows.film["reason_code"], rows.film["sha256"], rows.log["attempts"]) == ("worker_timeout", None, 3)


def test_a_film_that_kills_its_worker_gets_the_checksum_of_its_file():
    film = planned("single_right.dcm")
    rows = failed_rows(film, Finding("worker_died", "It died."), 3)
    assert rows.film["sha256"] == sha256((EXAMPLES / "single_right.dcm").read_bytes()).hexdigest()
    assert rows.log["version"] == content_version(film)


def test_the_summary_counts_the_rows_and_shows_the_knees_to_look_at(written):
    folder, films = written
    page = write_summary(folder, films).read_text()
    facts = json.loads((folder / "summary.json").read_text())
    knees = pd.read_parquet(folder / "knees")
    assert facts["films"] == {"all": 3, "failed": 1, "graded": 2}
    assert facts["knees"]["abstain"] == knees["abstain"].sum()
    for name in TARGET_NAMES:
        expected = [int((knees[name] == grade).sum()) for grade in range(len(facts["grades"][name]))]
        assert facts["grades"][name] == expected
    shown = {(one["source"], one["knee"]) for one in facts["review"]["shown"]}
    abstained = knees[knees["abstain"]]
    assert shown >= {("missing.dcm", None), *zip(abstained["source"], abstained["knee"], strict=True)}
    assert len(re.findall("<img src=.data:image/jpeg", page)) == len(shown) - 1  # the missing film has no picture
    assert "no picture" in page
    assert "script" not in page.replace("script-src", "")


@pytest.fixture
def replaced(grader, tmp_path):
    """Folder with the tables of a film that was replaced by another one, with these knees to look at, and the film."""
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    film = PlannedFilm(Source("film.dcm", tmp_path / "film.dcm"))
    for example in ("single_right.dcm", "bilateral.dcm"):
        shutil.copy(EXAMPLES / example, tmp_path / "film.dcm")
        writer, rows = PartWriter(tmp_path, Shard()), film_rows(grader, film, UserHints())
        writer.add(replace(rows, knees=[knee | {"abstain": True} for knee in rows.knees]))
        writer.flush()
    return tmp_path, film


def test_the_rows_of_a_film_that_was_replaced_have_no_picture(replaced):
    folder, film = replaced
    page = write_summary(folder, [film]).read_text()
    shown = json.loads((folder / "summary.json").read_text())["review"]["shown"]
    now = sha256_of(folder / "film.dcm")
    assert Counter(one["sha256"] == now for one in shown) == {True: 2, False: 1}
    pictures = re.findall(r"<figure>.*?(data:image/jpeg[^\"]*|no picture)", page)
    assert [picture == "no picture" for picture in pictures] == [one["sha256"] != now for one in shown]
    for path in (folder / "films").iterdir():  # only the film as it is now
        if pq.read_table(path)["sha256"].to_pylist() != [now]:
            path.unlink()
    alone = write_summary(folder, [film]).read_text()
    expected = re.findall(r"data:image/jpeg[^\"]*", alone)
    assert len(expected) == 2
    assert sorted(expected) == sorted(picture for picture in pictures if picture != "no picture")


def test_after_a_second_signal_no_film_is_read_for_its_picture(replaced):
    folder, film = replaced
    assert "data:image/jpeg" not in write_summary(folder, [film], stop=lambda: 2).read_text()
    assert "data:image/jpeg" in write_summary(folder, [film], stop=lambda: 1).read_text()


def test_pictures_are_shared_fairly_among_the_reasons():
    many = [ReviewedKnee(f"m{i}", "00", 0, "R", ("open_grade",), None, (i * 7 % 50) / 50) for i in range(50)]
    rare = [
        ReviewedKnee("r1", "00", 0, "R", ("implant", "open_grade"), None, 0.0),
        ReviewedKnee("r2", "00", None, None, ("blur",), None, None),
    ]
    shown, number = choose([*many, *rare], 12)
    assert (len(shown), number) == (12, 52)
    assert {"r1", "r2"} <= {one.source for one in shown}
    np.testing.assert_allclose([one.quality_score for one in shown if one.codes == ("open_grade",)], np.arange(10) / 50)
