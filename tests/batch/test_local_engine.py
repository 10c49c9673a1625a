"""The pool of worker processes, with real processes that die, hang and are stopped."""

import os
import signal
from itertools import count

import pytest
from worker_faults import DeadStartTask, FaultyTask, TaskWithoutWeights, planned

from kneegrade.batch import local_engine, retries
from kneegrade.batch.local_engine import LocalEngine
from kneegrade.batch.plan import PlannedFilm
from kneegrade.batch.remote_files import RemoteFile
from kneegrade.errors import KneeGradeError, WeightsError
from kneegrade.imaging import Source


def outcomes(engine, films):
    return {rows.film["source"]: rows for rows in engine.run(films) if rows is not None}


def test_a_film_that_kills_its_worker_gets_a_row_and_the_others_are_untouched(tmp_path):
    films = planned("a", "kill", "b", "once", "c")
    found = outcomes(LocalEngine(FaultyTask(tmp_path), workers=2), films)
    assert {name: rows.film["status"] for name, rows in found.items()} == {
        "a": "graded", "b": "graded", "c": "graded", "once": "graded", "kill": "failed",
    }  # fmt: skip
    assert found["kill"].film["reason_code"] == "worker_died"
    assert {name: rows.log["attempts"] for name, rows in found.items()} == {
        "a": 1, "b": 1, "c": 1, "once": 2, "kill": 3,
    }  # fmt: skip


def test_a_film_that_hangs_its_worker_gets_a_row(tmp_path):
    found = outcomes(LocalEngine(FaultyTask(tmp_path), workers=1, film_seconds=1), planned("hang", "a"))
    assert (found["a"].film["status"], found["hang"].film["reason_code"]) == ("graded", "worker_timeout")
    assert "took more than 1 s" in found["hang"].film["reason"]


def test_a_slow_download_has_more_time_than_a_film_of_this_computer(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "REMOTE_SECONDS", 60)
    (tmp_path / "film.png").write_bytes(b"\x89PNG")
    remote = PlannedFilm(Source("film", load=RemoteFile((tmp_path / "film.png").as_uri())))
    engine = LocalEngine(FaultyTask(tmp_path, seconds=1), workers=1, film_seconds=0.3)
    assert [rows.log["attempts"] for rows in engine.run([remote]) if rows is not None] == [1]


@pytest.mark.slow
def test_workers_are_replaced_after_some_films(tmp_path):
    engine = LocalEngine(FaultyTask(tmp_path), workers=1, films_per_worker=2)
    pids = []
    for rows in engine.run(planned("a", "b", "c")):
        if rows is not None:
            pids.append(engine._workers[0]._process.pid)
    assert pids[0] == pids[1] != pids[2]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[2], 0)


def test_the_first_signal_finishes_the_films_under_way(tmp_path):
    signals = count()
    films = iter(planned(*"abcdefgh"))
    engine = LocalEngine(FaultyTask(tmp_path, seconds=0.3), workers=2, stop=lambda: int(next(signals) > 6))
    done = outcomes(engine, films)
    left = [film.source.name for film in films]
    assert sorted([*done, *left]) == sorted("abcdefgh")
    assert left
    assert len(done) >= 2


def test_a_second_signal_leaves_the_films_under_way(tmp_path):
    engine = LocalEngine(FaultyTask(tmp_path), workers=1, stop=iter([0, 0, *[2] * 99]).__next__)
    assert outcomes(engine, planned("hang", "a")) == {}


def test_networks_that_cannot_be_loaded_end_the_run():
    with pytest.raises(WeightsError, match="damaged"):
        list(LocalEngine(TaskWithoutWeights(), workers=1).run(planned("a")))


def test_a_worker_that_died_without_a_film_counts_for_no_film(tmp_path):
    engine = LocalEngine(FaultyTask(tmp_path), workers=1)
    attempts = []
    for rows in engine.run(planned("a", "b")):
        if rows is not None:
            attempts.append(rows.log["attempts"])
            engine._workers[0]._process.kill()
            engine._workers[0]._process.wait()
    assert attempts == [1, 1]


@pytest.mark.slow
def test_more_killing_films_than_deaths_in_a_row_get_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "MAX_DEATHS", 2)
    found = outcomes(LocalEngine(FaultyTask(tmp_path), workers=1), planned("kill1", "kill2", "kill3", "a"))
    assert {name: rows.film["reason_code"] for name, rows in found.items() if rows.film["status"] == "failed"} == {
        "kill1": "worker_died", "kill2": "worker_died", "kill3": "worker_died",
    }  # fmt: skip
    assert found["a"].film["status"] == "graded"


@pytest.mark.slow
def test_a_run_whose_workers_die_only_together_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "MAX_DEATHS", 2)
    done = {}

    def grade():
        for rows in LocalEngine(FaultyTask(tmp_path), workers=1).run(planned("once1", "once2", "a")):
            done.update({rows.film["source"]: rows.film["status"]} if rows else {})

    with pytest.raises(KneeGradeError, match=r"no film is to blame.*--workers"):
        grade()
    assert done == {"once1": "graded", "once2": "graded"}


def test_a_run_whose_workers_die_before_they_are_ready_ends(monkeypatch):
    monkeypatch.setattr(local_engine, "MAX_DEATHS", 2)
    with pytest.raises(KneeGradeError, match=f"exit status {-signal.SIGKILL}.*--workers"):
        list(LocalEngine(DeadStartTask(), workers=1).run(planned("a", "b")))
