"""The pool of worker processes, with real processes that die, hang and are stopped."""

import os
import signal
from itertools import count

import pytest
from worker_faults import FaultyTask, TaskWithoutWeights, planned

from kneegrade.batch import local_engine
from kneegrade.batch.local_engine import LocalEngine
from kneegrade.errors import KneeGradeError, WeightsError


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
    assert (found["a"].film["status"], found["hang"].film["reason_code"]) == ("graded", "worker_died")
    assert "exceeded 1 s" in found["hang"].film["reason"]


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


@pytest.mark.slow
def test_a_run_whose_workers_all_die_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine, "MAX_DEATHS", 2)
    with pytest.raises(KneeGradeError, match=f"exit status {-signal.SIGKILL}.*--workers"):
        list(LocalEngine(FaultyTask(tmp_path), workers=1).run(planned("kill1", "kill2", "a")))
