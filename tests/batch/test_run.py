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
from kneegrade.batch.film_task import content_version
from kneegrade.batch.finished_films import finished_films
from kneegrade.batch.plan import plan_films
from kneegrade.batch.result_parts import PartWriter, clean
from kneegrade.batch.run_file import OutputLock
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


def write_earlier(directory, films, **contents):
    """Finished films NAME.dcm of an earlier run, with the SHA-256 of some bytes and a state that their files lack."""
    writer = PartWriter(directory, Shard())
    for name, content in contents.items():
        film = rows_of(f"{name}.dcm", content and sha256(content).hexdigest())
        film.film["knees_graded"] = int(content != b"not gradable")
        writer.add(film)
    writer.flush()
    return plan_films([str(films)]).films


def left_of(films, output, stop=lambda: 0, shard=None):
    """Names of the films that a resumed run grades, and its progress."""
    lock, shown, shard = OutputLock(output), [], shard or Shard()
    films = [film for film in films if film.source.name in shard]
    progress = run.BatchProgress(len(films), again=clean(output, shard, lock.parts))
    try:
        left = run._left(films, output, lock, shard, progress, stop, lambda state: shown.append(state.skipped))
    finally:
        lock.close()
    return [film.source.name for film in left], progress, shown


def versions(output):
    return {source: row["version"] for (source, _), row in rows(output, "log").items()}


@pytest.fixture
def films(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("new.dcm", "old.dcm", "other.dcm"):
        (tmp_path / "in" / name).write_bytes(b"now")
    return tmp_path / "in"


def test_a_film_whose_content_has_changed_is_graded_again_and_counted(tmp_path, films):
    plan = write_earlier(tmp_path / "out", films, old=b"now", new=b"before")  # of "old", only the time has changed
    names, progress, _ = left_of(plan, tmp_path / "out")
    assert names == ["new.dcm", "other.dcm"]
    assert (progress.skipped, progress.replaced, progress.left) == (1, 1, 2)


def test_a_film_that_was_read_to_compare_it_is_not_read_by_the_next_run(tmp_path, films):
    plan = write_earlier(tmp_path / "out", films, old=b"now", other=b"before")
    left_of(plan, tmp_path / "out")
    old = next(film for film in plan if film.source.name == "old.dcm")
    assert versions(tmp_path / "out") == {"old.dcm": content_version(old), "other.dcm": "1"}


def test_a_film_that_can_be_seen_but_not_read_keeps_its_rows(tmp_path, films):
    plan = write_earlier(tmp_path / "out", films, old=b"now", new=b"now", other=b"now")
    (films / "old.dcm").unlink()
    (films / "old.dcm").mkdir()
    names, progress, _ = left_of(plan, tmp_path / "out")
    assert (names, progress.skipped, progress.replaced) == ([], 3, 0)
    assert versions(tmp_path / "out")["old.dcm"] == "1"


def test_a_signal_ends_the_comparison_with_earlier_runs_and_its_result_is_kept(tmp_path, films, monkeypatch):
    monkeypatch.setattr(run, "SHOW_SECONDS", 0.0)
    plan = write_earlier(tmp_path / "out", films, old=b"now", new=b"now", other=b"now")
    with pytest.raises(KeyboardInterrupt):
        left_of(plan, tmp_path / "out", iter([0, 0, 1]).__next__)
    assert [name for name, version in versions(tmp_path / "out").items() if version == "1"] == ["other.dcm"]
    _, _, shown = left_of(plan, tmp_path / "out")
    assert shown == [1, 2, 3]


def test_only_the_row_of_the_present_file_decides_whether_all_is_graded(tmp_path, films):
    write_earlier(tmp_path / "out", films, old=b"not gradable")
    plan = write_earlier(tmp_path / "out", films, old=b"now", new=b"now", other=b"now")
    _, progress, _ = left_of(plan, tmp_path / "out")
    assert (progress.skipped, progress.all_graded) == (3, True)
    (films / "old.dcm").write_bytes(b"not gradable")
    assert not left_of(plan, tmp_path / "out")[1].all_graded


def test_narrower_shards_try_the_unread_films_of_a_run_over_all_again(tmp_path, films):
    plan = write_earlier(tmp_path / "out", films, old=None, new=None, other=b"now")
    found = [left_of(plan, tmp_path / "out", shard=Shard(number, 4)) for number in (1, 2, 3, 4)]
    assert sorted(name for names, _, _ in found for name in names) == ["new.dcm", "old.dcm"]
    assert sum(progress.again for _, progress, _ in found) == 2
    assert sum(progress.replaced for _, progress, _ in found) == 0
    assert all(progress.all_graded for _, progress, _ in found)
    assert set(rows(tmp_path / "out", "films")) == {("other.dcm", None)}


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
    earlier = finished_films(tmp_path, Shard()).of(["film.png", "sheet.png"])
    assert [film.all_graded for (film,) in earlier] == [True, False]
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
