"""`run_batch` on real films with real worker processes."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from worker_faults import FaultyTask, rows_of

from kneegrade import Grader
from kneegrade.batch import BatchOptions, RunSettings, Shard, read_table, run, run_batch
from kneegrade.batch.plan import plan_films
from kneegrade.batch.result_parts import PartWriter, finished_films
from kneegrade.batch.summary import ungraded_lines
from kneegrade.errors import UsageError
from kneegrade.imaging import find_sources
from kneegrade.schema import TARGET_NAMES

EXAMPLES = Path(__file__).parents[2] / "examples"
CPU = RunSettings(device="cpu")
OPTIONS = BatchOptions(settings=CPU, workers=1, formats=("fhir",))


def make_films(folder):
    (folder / "a").mkdir(parents=True)
    shutil.copy(EXAMPLES / "single_right.dcm", folder / "a" / "one.dcm")
    shutil.copy(EXAMPLES / "bilateral.dcm", folder / "two.dcm")
    (folder / "bad.dcm").write_bytes(b"no film")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of films and results, and the progress of a run in which a film vanished after it was listed."""
    root = tmp_path_factory.mktemp("batch")
    films, plan_films = make_films(root / "in"), run.plan_films

    def plan_and_lose(*arguments, **options):
        plan = plan_films(*arguments, **options)
        (films / "two.dcm").rename(root / "away")
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "plan_films", plan_and_lose)
        progress = run_batch([str(films)], root / "out", OPTIONS)
    return root, progress


def rows(directory, table):
    found = read_table(directory, table).to_pylist()
    return {(row["source"], row.get("knee")): row for row in found}


def test_bad_and_vanished_films_are_rows_with_their_reasons(finished):
    root, progress = finished
    films = {source: row["reason_code"] for (source, _), row in rows(root / "out", "films").items()}
    assert films == {"a/one.dcm": None, "bad.dcm": "format", "two.dcm": "no_such_file"}
    assert (progress.total, progress.graded, progress.failed, progress.left) == (3, 1, 2, 0)
    assert not progress.all_graded
    assert ungraded_lines(root / "out") == ["2 of 3 films could not be read or graded: 1 format, 1 no such file."]
    summary = json.loads((root / "out" / "summary.json").read_text())
    assert summary["films"] == {"all": 3, "failed": 2, "graded": 1}
    assert {one["source"] for one in summary["review"]["shown"]} >= {"bad.dcm", "two.dcm"}


def test_a_resumed_run_grades_what_is_missing_and_the_rows_are_those_of_grade(finished):
    root, _ = finished
    (root / "away").rename(root / "in" / "two.dcm")
    os.utime(root / "in" / "a" / "one.dcm")  # another time of change, the same bytes
    parts = set((root / "out" / "films").iterdir())
    progress = run_batch([str(root / "in")], root / "out", OPTIONS)
    assert (progress.again, progress.skipped, progress.graded, progress.done) == (1, 2, 1, 1)
    assert len(set((root / "out" / "films").iterdir()) - parts) == 1
    films, knees = rows(root / "out", "films"), rows(root / "out", "knees")
    report = Grader("cpu").grade_sources(find_sources([root / "in"]))
    assert {name for name, _ in films} == {film.source for film in report.radiographs}
    assert sum(len(film.knees) for film in report.radiographs) == len(knees) == 3
    for film in report.radiographs:
        assert films[film.source, None]["sha256"] == film.sha256
        for number, knee in enumerate(film.knees):
            assert_same(knees[film.source, number], knee)
    assert_objects_state_the_start_of_the_first_run(root / "out")


def assert_objects_state_the_start_of_the_first_run(output):
    bundles = {
        path.relative_to(output).as_posix(): json.loads(path.read_text()) for path in output.rglob("*.fhir.json")
    }
    assert sorted(bundles) == ["fhir/a/one.dcm.fhir.json", "fhir/two.dcm.fhir.json"]
    started = json.loads((output / "run.json").read_text())["started"]
    issued = {entry["resource"].get("issued") for bundle in bundles.values() for entry in bundle["entry"]}
    assert issued - {None} == {started}


def assert_same(row, knee):
    assert (row["side"], row["abstain"]) == (knee.side, knee.abstain)
    for name in TARGET_NAMES:
        grade = knee.grades[name]
        assert row[name] == grade.grade
        assert tuple(range(row[f"{name}_set_low"], row[f"{name}_set_high"] + 1)) == grade.prediction_set
        np.testing.assert_allclose(row[f"{name}_probabilities"], grade.probabilities, atol=1e-5)
    np.testing.assert_allclose(np.reshape(row["landmarks_px"], (74, 2)), knee.landmarks_px, atol=0.01)
    assert row["joint_space_medial_fraction"] == pytest.approx(knee.joint_space.medial.value, abs=1e-5)
    width = knee.joint_space_width_mm
    assert row["joint_space_lateral_mm"] == (None if width is None else pytest.approx(width.lateral, abs=1e-3))
    assert row["convergence_angle_error_deg"] == pytest.approx(knee.joint_space.convergence_deg.error, abs=1e-3)
    assert row["coherence_decoding_shift"] == knee.coherence.decoding_shift


def test_a_film_whose_content_has_changed_is_graded_again_and_counted(tmp_path):
    for name in ("old.dcm", "new.dcm"):
        (tmp_path / name).write_bytes(b"now")
    films = plan_films([str(tmp_path)]).films
    earlier = {"version": "3:0", "all_graded": True}
    finished = {
        "old.dcm": [{**earlier, "sha256": sha256(b"now").hexdigest()}],  # only its time has changed
        "new.dcm": [{**earlier, "sha256": sha256(b"before").hexdigest()}],
    }
    progress = run.BatchProgress(2)
    assert [film.source.name for film in run._unfinished(films, finished, progress)] == ["new.dcm"]
    assert (progress.skipped, progress.replaced) == (1, 1)


@pytest.mark.slow
def test_a_replaced_film_does_not_count_for_a_film_of_another_shard(tmp_path, monkeypatch):
    """Its two rows are as many as there are films."""
    monkeypatch.setattr(run, "FilmTask", lambda *settings: FaultyTask(tmp_path))
    first, second = (Shard(number, 2) for number in (1, 2))
    names = [next(name for i in range(99) if (name := f"film{i}.png") in shard) for shard in (first, second)]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"\x89PNG")

    def grade(shard):
        return run_batch([str(tmp_path / "in")], tmp_path / "out", BatchOptions(settings=CPU), shard=shard)

    assert grade(first).summary is None
    (tmp_path / "in" / names[0]).write_bytes(b"\x89PNG of another knee")
    again = grade(first)
    assert (again.replaced, again.summary) == (1, None)
    assert len(read_table(tmp_path / "out", "films")) == 2
    assert grade(second).summary == tmp_path / "out" / "summary.html"


def test_a_picture_with_more_knees_than_were_graded_counts_as_not_all_graded(tmp_path):
    """As in `grade`; in the run that grades it and in later ones."""
    crowded, plain = rows_of("sheet.png"), rows_of("film.png")
    crowded.film["warnings"] = ["more_knees"]
    progress = run.BatchProgress(2)
    progress.count(plain)
    assert progress.all_graded
    progress.count(crowded)
    assert not progress.all_graded
    writer = PartWriter(tmp_path, Shard())
    for film in (plain, crowded):
        writer.add(film)
    writer.flush()
    earlier = finished_films(tmp_path, Shard())
    assert {name: row["all_graded"] for name, (row,) in earlier.items()} == {"film.png": True, "sheet.png": False}
    assert ungraded_lines(tmp_path) == ["1 of 2 pictures shows more knees than were graded."]


def test_other_settings_are_refused_in_the_same_folder(finished):
    root, _ = finished
    settings = RunSettings(device="cpu", side="L")
    with pytest.raises(UsageError, match=r"side \(None then, L now\)"):
        run_batch([str(root / "in")], root / "out", BatchOptions(settings=settings))


def sorted_rows(directory, table):
    found = read_table(directory, table)
    keys = [(name, "ascending") for name in ("source", "sha256", "knee") if name in found.column_names]
    return found.sort_by(keys)


@pytest.mark.slow
def test_rows_are_identical_for_any_workers_shards_and_engine(tmp_path):
    """Bit for bit, with films of one and two knees and of several sizes."""
    pytest.importorskip("ray")
    films = make_films(tmp_path / "in")
    for i in range(4):
        shutil.copy(EXAMPLES / "single_right.dcm", films / f"copy{i}.dcm")

    def grade(name, **options):
        for shard in options.pop("shards", [Shard()]):
            run_batch([str(films)], tmp_path / name, BatchOptions(settings=CPU, **options), shard=shard)
        return [sorted_rows(tmp_path / name, table) for table in ("knees", "films")]

    expected = grade("one", workers=1)
    assert [len(table) for table in expected] == [7, 7]
    assert grade("two", workers=2) == expected
    assert grade("shards", workers=1, shards=[Shard(i, 3) for i in (1, 2, 3)]) == expected
    assert grade("ray", workers=2, engine="ray") == expected


def test_ray_writes_no_objects(tmp_path):
    with pytest.raises(UsageError, match="use --engine local"):
        run_batch([str(EXAMPLES)], tmp_path, BatchOptions(engine="ray", formats=("fhir",)))
