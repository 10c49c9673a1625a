"""The workers of the server with a task that kills, hangs and refuses; the clock of the spool is the test's."""

import os
import threading
import time
from pathlib import Path

import pytest
from served import until
from worker_commands import CommandTask, TaskWithoutNetworks

from kneegrade.errors import KneeGradeError
from kneegrade.server import film_worker
from kneegrade.server.film_worker import WORKER_DIED, FilmWorkers
from kneegrade.server.settings import GradingSettings, RestSettings, ServeSettings, SpoolSettings
from kneegrade.server.spool.film_spool import MAX_ATTEMPTS, Spool

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _workers_find_the_task(monkeypatch):
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{known}" if known else HERE)


class Clock:
    """A clock that stands until it is moved."""

    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def spool(tmp_path, clock):
    made = Spool(tmp_path / "spool", min_free_bytes=0, clock=clock)
    yield made
    made.close()


def settings_of(spool, **grading):
    """Settings with one destination that takes the structured report."""
    destination = {"kind": "stow", "name": "archive", "url": "https://archive.example", "objects": ["sr"]}
    return ServeSettings(
        spool=SpoolSettings(directory=spool.directory), grading=GradingSettings(**grading),
        rest=RestSettings(tokens="tokens"), destination=[destination],
    )  # fmt: skip


def add(spool, text):
    stream, path = spool.temporary_file()
    with stream:
        stream.write(text.encode())
    return spool.accept(path, kind="png", sop_instance_uid=None, sender="test").key


def run(spool, settings, until_true, task=None):
    """Run the workers in this thread until something is true."""
    end = time.monotonic() + 60
    workers = FilmWorkers(settings, spool, task or CommandTask(spool.directory))
    workers.run_until(lambda: until_true() or time.monotonic() > end)
    assert time.monotonic() <= end, "waited too long"


def states(spool, *keys):
    return [spool.film(key).state for key in keys]


def test_films_are_graded_and_their_deliveries_are_due(spool):
    keys = [add(spool, f"film {number}") for number in range(5)]
    run(spool, settings_of(spool, workers=2), lambda: states(spool, *keys) == ["graded"] * 5)
    for key in keys:
        assert [(one.object, one.destination, one.state) for one in spool.deliveries(key)] == [
            ("sr.dcm", "archive", "due")
        ]
        assert (spool.results(key) / "sr.dcm").read_text() == "film"
    assert list((spool.directory / "tmp").iterdir()) == []


def test_a_film_that_kills_its_worker_runs_out_of_attempts_and_others_are_graded(spool, clock):
    killer, once, good = add(spool, "kill"), add(spool, "once"), add(spool, "film")

    def is_done():
        clock.now += 60  # the waits between attempts
        return states(spool, killer, once, good) == ["dead", "graded", "graded"]

    run(spool, settings_of(spool), is_done)
    assert (spool.film(killer).attempts, spool.film(killer).reason) == (MAX_ATTEMPTS, WORKER_DIED)
    assert spool.film(once).attempts == 2


def test_a_film_that_takes_too_long_loses_its_worker(spool, clock):
    key, good = add(spool, "hang"), add(spool, "film")
    run(spool, settings_of(spool, film_seconds=5), lambda: spool.film(key).reason is not None)
    assert (spool.film(key).state, spool.film(key).reason) == ("received", WORKER_DIED)
    run(spool, settings_of(spool), lambda: states(spool, good) == ["graded"])


def test_a_film_that_cannot_be_graded_is_dead_at_once(spool):
    key = add(spool, "bad")
    run(spool, settings_of(spool), lambda: states(spool, key) == ["dead"])
    assert (spool.film(key).reason, spool.film(key).attempts) == ("format: no film", 1)


def test_a_full_disk_costs_a_film_no_attempt(spool, monkeypatch):
    monkeypatch.setattr(film_worker, "PAUSE_SECONDS", 0.3)
    key = add(spool, "full")
    run(spool, settings_of(spool), lambda: states(spool, key) == ["graded"])
    assert spool.film(key).attempts == 1


def test_at_the_end_a_film_in_work_is_finished(spool):
    key = add(spool, "slow")
    run(spool, settings_of(spool), lambda: states(spool, key) == ["working"])
    assert states(spool, key) == ["graded"]


def test_at_the_end_a_film_that_takes_longer_is_received_again(spool, monkeypatch):
    monkeypatch.setattr(film_worker, "STOP_SECONDS", 0.5)
    key = add(spool, "hang")
    run(spool, settings_of(spool), lambda: states(spool, key) == ["working"])
    assert states(spool, key) == ["received"]


def test_networks_that_cannot_be_loaded_are_an_error(spool):
    with pytest.raises(KneeGradeError, match="weights are damaged"):
        run(spool, settings_of(spool), lambda: False, TaskWithoutNetworks())


@pytest.mark.slow
def test_workers_that_die_one_after_the_other_are_an_error(spool):
    with pytest.raises(KneeGradeError, match="ended before they could grade"):
        run(spool, settings_of(spool), lambda: False, TaskWithoutNetworks(dies=True))


def test_a_worker_is_ready_for_films_that_come_later(spool):
    key, stopped = [], threading.Event()
    workers = FilmWorkers(settings_of(spool), spool, CommandTask(spool.directory))
    thread = threading.Thread(target=workers.run_until, args=(stopped.is_set,))
    thread.start()
    try:
        time.sleep(1.0)
        key.append(add(spool, "film"))
        until(lambda: states(spool, *key) == ["graded"])
    finally:
        stopped.set()
        thread.join(20)
