"""Folders of `grade` and `batch` as the reader's page sees them."""

import json
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading_folders import MM_PER_PX, WEIGHTS, reading_report, write_reading_folder

from kneegrade.batch.parquet import film_row, knee_rows, table_schema
from kneegrade.errors import KneeGradeError, UnreadableFileError, UnsupportedFileError, UsageError
from kneegrade.imaging.sources import sha256_of
from kneegrade.reporting import write_inputs, write_json
from kneegrade.server.reading import film_search
from kneegrade.server.reading.film_pixels import PixelCache
from kneegrade.server.reading.finding_texts import FINDING_TEXTS
from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.reading_comparison import machine_reading
from kneegrade.server.reading.run_records import film_keys


@pytest.fixture
def batch_folder(tmp_path):
    """The films of `folder` as the tables of a batch, with people."""
    report, out = reading_report(tmp_path / "films", 4), tmp_path / "batch"
    carried = [pa.field("subject_id", pa.string())]
    rows = {"films": [], "knees": [], "log": []}
    for i, film in enumerate(report.radiographs):
        extra = {"input_subject_id": f"P{i // 2}"}
        rows["films"].append(film_row(film) | extra)
        rows["knees"] += [row | extra for row in knee_rows(film)]
        rows["log"].append({"source": film.source, "sha256": film.sha256})
    for name, table in rows.items():
        (out / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(table, table_schema(name, carried)), out / name / "0-of-1-a-0.parquet")
    run = {"inputs": [str(tmp_path / "films")], "weights": {"grader": {"sha256": WEIGHTS.sha256}}}
    (out / "run.json").write_text(json.dumps(run))
    return out


def test_tables_of_a_batch_give_the_same_worklist_and_reading_as_the_report(folder, batch_folder):
    report, tables = FolderStore(folder), FolderStore(batch_folder)
    assert [film.key for film in tables.worklist()] == [film.key for film in report.worklist()]
    for one, two in zip(report.worklist(), tables.worklist(), strict=True):
        assert (two.name, two.status, two.flags) == (one.name, one.status, one.flags)
        assert two.doubt == pytest.approx(one.doubt, abs=1e-5)
        first, second = report.film(one.key), tables.film(two.key)
        assert machine_reading(second) == machine_reading(first)
        assert second.mm_per_px == pytest.approx(first.mm_per_px, rel=1e-4)
        assert first.mm_per_px == pytest.approx(MM_PER_PX, rel=1e-4)
        for a, b in zip(first.knees, second.knees, strict=True):
            np.testing.assert_allclose(b["landmarks_px"], a["landmarks_px"], atol=0.01)
            assert b["grades"]["kl"]["set"] == a["grades"]["kl"]["set"]
    assert [film.person for film in tables.worklist()] == ["P0", "P0", "P1", "P1"]


def test_tables_of_a_batch_give_sentences_for_the_codes_of_findings(batch_folder):
    path = batch_folder / "films" / "0-of-1-a-0.parquet"
    table = pq.read_table(path)
    codes = pa.array([["knees_stacked"]] * len(table), table.schema.field("warnings").type)
    pq.write_table(table.set_column(table.schema.get_field_index("warnings"), "warnings", codes), path)
    store = FolderStore(batch_folder)
    (warning,) = store.film(store.worklist()[0].key).warnings
    assert warning["message"].startswith("The two knees lie one above the other")


def test_every_message_of_a_code_is_a_sentence():
    assert [code for code, text in FINDING_TEXTS.items() if " " not in text or not text.endswith(".")] == []


def test_reasons_to_look_are_found(folder):
    flags = [film.flags for film in FolderStore(folder).worklist()]
    assert flags[0] & 4  # KL 0 with an osteophyte of grade 2
    assert flags[1] & 2  # unusual
    doubts = [film.doubt for film in FolderStore(folder).worklist()]
    assert doubts[0] > 1
    assert doubts[1] > 1


def test_films_are_found_by_their_recorded_paths_and_where_they_were_moved(folder, tmp_path):
    key = FolderStore(folder).worklist()[0].key
    assert FolderStore(folder).content(key).path == tmp_path / "films" / "film-01.png"
    shutil.move(tmp_path / "films", tmp_path / "moved")
    with pytest.raises(KneeGradeError, match="--films"):
        FolderStore(folder).content(key)
    assert FolderStore(folder, [tmp_path / "moved"]).content(key).path == tmp_path / "moved" / "film-01.png"


def test_a_renamed_film_is_found_by_its_content(folder, tmp_path):
    films, key = tmp_path / "films", FolderStore(folder).worklist()[1].key
    (films / "film-02.png").rename(films / "patient-7.png")
    assert FolderStore(folder).content(key).path == films / "patient-7.png"
    write_inputs(sorted([*films.glob("film-*.png"), films / "film-02.png"]), folder)  # the run got files, no folder
    assert FolderStore(folder).content(key).path == films / "patient-7.png"
    (films / "patient-7.png").write_bytes(b"another content")
    with pytest.raises(KneeGradeError, match="--films"):
        FolderStore(folder).content(key)


def test_a_film_with_the_name_of_another_one_is_not_taken_for_it(folder, tmp_path):
    store, films = FolderStore(folder), tmp_path / "films"
    first, second = (film.key for film in store.worklist()[:2])
    (films / "film-02.png").replace(films / "film-01.png")
    assert store.content(second).path == films / "film-01.png"
    with pytest.raises(UnreadableFileError):
        store.content(first)


def test_threads_find_renamed_films_at_the_same_time(tmp_path, monkeypatch):
    store, films = FolderStore(write_reading_folder(tmp_path, 2)), tmp_path / "films"
    keys = [film.key for film in store.worklist()]
    for number in (1, 2):
        (films / f"film-{number:02d}.png").rename(films / f"renamed-{number}.png")

    def slow(content):
        time.sleep(0.2)
        return sha256_of(content)

    monkeypatch.setattr(film_search, "sha256_of", slow)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(store.content, keys * 2))
    assert [content.path.name for content in found] == ["renamed-1.png", "renamed-2.png"] * 2


def test_readings_follow_a_film_that_is_renamed_and_graded_again(folder):
    before = FolderStore(folder)
    report = json.loads((folder / "report.json").read_text())
    report["radiographs"][0]["source"] = "renamed.png"
    (folder / "report.json").write_text(json.dumps(report))
    after = FolderStore(folder)
    assert [film.key for film in after.worklist()] == [film.key for film in before.worklist()]
    assert after.worklist()[0].name == "renamed.png"


def test_films_of_the_same_content_have_keys_of_their_own():
    keys = film_keys([("a", "0" * 64), ("b", "0" * 64), ("c", "1" * 64), ("d", None), ("e", None)])
    assert len(set(keys.values())) == 5
    assert film_keys([("x", "0" * 64), ("y", "0" * 64)]) == {
        ("x", "0" * 64): keys["a", "0" * 64], ("y", "0" * 64): keys["b", "0" * 64],
    }  # fmt: skip


def test_a_film_in_an_archive_is_found(tmp_path):
    report = reading_report(tmp_path / "films", 1)
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(tmp_path / "films" / "film-01.png", "a/film-01.png")
    (tmp_path / "out").mkdir()
    write_json(
        replace(report, radiographs=(replace(report.radiographs[0], source="a/film-01.png"),)),
        tmp_path / "out" / "report.json",
    )
    write_inputs([tmp_path / "films.zip"], tmp_path / "out")
    store = FolderStore(tmp_path / "out")
    key = store.worklist()[0].key
    content = store.content(key)
    assert content.path is None
    assert PixelCache().of(store.film(key), content).columns == 420


def test_a_changed_film_is_refused(folder, tmp_path):
    store = FolderStore(folder)
    key = store.worklist()[0].key
    found = store.content(key)
    shutil.copy(tmp_path / "films" / "film-02.png", tmp_path / "films" / "film-01.png")
    with pytest.raises(UnsupportedFileError, match="changed"):
        PixelCache().of(store.film(key), found)
    with pytest.raises(UnreadableFileError, match="no file there has its content"):
        store.content(key)


def test_pixels_are_decoded_once(folder, tmp_path):
    store, cache = FolderStore(folder), PixelCache()
    film = store.film(store.worklist()[0].key)
    content = store.content(film.key)
    first = cache.of(film, content)
    (tmp_path / "films" / "film-01.png").write_bytes(b"")
    assert cache.of(film, content) is first
    assert len(first.grey) == 2 * first.rows * first.columns


def test_the_person_is_a_group_of_a_regular_expression(folder):
    assert FolderStore(folder, subject=r"film-(\d)").worklist()[3].person == "0"
    with pytest.raises(UsageError, match="no group"):
        FolderStore(folder, subject="film")


def test_the_expression_for_the_person_is_remembered(folder, monkeypatch):
    from kneegrade.commands import main

    def export(*options):
        monkeypatch.setattr("sys.argv", ["kneegrade", "viewer", str(folder), "--export", *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return {film.person for film in FolderStore(folder).worklist()}

    assert export("--subject", r"film-(\d)") == {"0"}
    assert export() == {"0"}
    assert export("--subject", "none") == {""}
    assert export() == {""}


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"report\.json"):
        FolderStore(tmp_path)
