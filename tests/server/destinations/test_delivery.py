"""Deliveries to several destinations at once, and how they stop."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from delivery_peers import Clock, free_port, put_results, put_three, small_object, states
from web_peer import Answer, running_web_peer, stow_answer, uid_in

pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')
pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')

from kneegrade.server.destinations.delivery import (
    Destination,
    Round,
    Sent,
    deliver_due,
    deliver_until,
    destination_of,
    run_until,
)
from kneegrade.server.destinations.destination_settings import DimseSettings, FhirSettings, StowSettings
from kneegrade.server.destinations.dimse_destination import DimseDestination
from kneegrade.server.destinations.fhir_destination import FhirDestination
from kneegrade.server.destinations.stow_destination import StowDestination
from kneegrade.server.spool.film_spool import Spool

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see test_dimse_destination
SOURCE = str(Path(__file__).parents[3] / "src")


@pytest.fixture
def no_sockets_are_left():
    yield
    gc.collect()


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=Clock())
    yield spool
    spool.close()


def accepts(path: str, body: bytes) -> Answer:
    return Answer(200, stow_answer([uid_in(body)], {}))


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@contextmanager
def delivering(spool: Spool, *destinations: Destination):
    stopped = threading.Event()
    thread = threading.Thread(target=run_until, args=(stopped, destinations, spool))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_destination_of_each_kind():
    stow = StowSettings(name="web", url="https://archive.example/dicom-web")
    dimse = DimseSettings(name="pacs", title="PACS", host="pacs", port=104)
    fhir = FhirSettings(name="ehr", url="https://fhir.example/r4")
    made = [destination_of(one) for one in (dimse, stow, fhir)]
    assert [type(one) for one in made] == [DimseDestination, StowDestination, FhirDestination]
    assert [one.name for one in made] == ["pacs", "web", "ehr"]


def test_a_dead_and_a_hanging_destination_hold_up_no_other(spool, no_sockets_are_left):
    keys = [put_three(spool, "web", "dead", "hanging", number=number) for number in range(1, 5)]
    never = threading.Event()
    dead = DimseDestination(DimseSettings(name="dead", title="PACS", host="127.0.0.1", port=free_port()))

    def hang(path, body):
        never.wait(20)
        return Answer(503)

    with running_web_peer(accepts) as peer, running_web_peer(hang) as slow:
        web = StowDestination(StowSettings(name="web", url=peer.url))
        hanging = StowDestination(StowSettings(name="hanging", url=slow.url), silent_seconds=20)
        with delivering(spool, dead, hanging, web):
            assert wait_for(lambda: len(peer.requests) == 12)
            assert wait_for(lambda: all(s[0] == "sent" for key in keys for s in states(spool, key, "web").values()))
            assert wait_for(lambda: any(s[1] for key in keys for s in states(spool, key, "dead").values()))
            assert {state for key in keys for state in states(spool, key, "hanging").values()} == {("due", 0, None)}
            never.set()
    found = [uid_in(body) for *_, body in peer.requests]
    assert sorted(found) == sorted({f"2.25.{n}{i}" for n in range(1, 5) for i in (1, 2, 3)})  # each once
    assert {state for key in keys for state, *_ in states(spool, key, "dead").values()} == {"due"}


def test_the_second_destination_is_tried_again_when_the_first_has_the_object(spool):
    """As Google's adapter did not (issue 141)."""
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "first", "second")
    with running_web_peer(accepts) as first, running_web_peer(lambda path, body: Answer(500)) as second:
        both = [
            StowDestination(StowSettings(name=name, url=peer.url))
            for name, peer in {"first": first, "second": second}.items()
        ]
        assert [deliver_due(spool, one) for one in both] == [Round(sent=1), Round(failed=1)]
        second.answer = accepts
        assert [deliver_due(spool, one) for one in both] == [Round(), Round()]  # it waits
        spool._clock.now += 5
        assert [deliver_due(spool, one) for one in both] == [Round(), Round(sent=1)]
        assert (len(first.requests), len(second.requests)) == (1, 2)
    assert states(spool, key, "second") == {"sr.dcm": ("sent", 2, None)}


def test_after_twelve_attempts_a_delivery_is_dead_until_it_is_asked_for_again(spool):
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "web")
    with running_web_peer(lambda path, body: Answer(500)) as peer:
        web = StowDestination(StowSettings(name="web", url=peer.url))
        for _ in range(20):
            deliver_due(spool, web)
            spool._clock.now += 3600
        assert len(peer.requests) == 12
        assert states(spool, key, "web") == {"sr.dcm": ("dead", 12, "HTTP 500.")}
        peer.answer = accepts
        spool.retry([key])
        assert deliver_due(spool, web) == Round(sent=1)


def test_pauses_grow_to_a_minute_and_end_with_the_trouble(spool):
    """A destination that is away for days is asked once a minute, and no error ends its thread."""
    put_three(spool, "busy", number=1)
    pauses = []

    class Stopped(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            if len(pauses) == 8:
                destination.is_busy = False
            if len(pauses) == 10:
                self.set()
            return self.is_set()

    class Busy:
        name = "busy"
        is_busy = True

        def send(self, deliveries):
            if not self.is_busy:
                yield from map(Sent, deliveries)

    destination = Busy()
    deliver_until(spool, destination, Stopped())
    assert pauses == [5, 10, 20, 40, 60, 60, 60, 60, 1, 1]
    assert spool.counts()["deliveries"]["sent"] == 3


class Broken:
    """A destination that raises once, with the patient's name in the text, and then delivers."""

    name = "broken"

    def __init__(self) -> None:
        self.is_repaired = False

    def send(self, deliveries):
        if not self.is_repaired:
            self.is_repaired = True
            raise ValueError("CANARY^NAME")
        yield from map(Sent, deliveries)


def test_an_error_in_kneegrade_delays_a_destination_and_names_no_patient(spool, caplog):
    key = put_three(spool, "broken")
    stopped = threading.Event()
    thread = threading.Thread(
        target=deliver_until, args=(spool, Broken(), stopped), kwargs={"pause_seconds": 0.05, "look_seconds": 0.05}
    )
    with caplog.at_level(logging.DEBUG):
        thread.start()
        assert wait_for(lambda: {state for state, *_ in states(spool, key, "broken").values()} == {"sent"})
        stopped.set()
        thread.join(5)
    assert "an error in kneegrade (ValueError)" in caplog.text
    assert "CANARY" not in caplog.text


PROGRAM = """
import sys
from pathlib import Path
from types import SimpleNamespace
from kneegrade.server.destinations.delivery import run_deliveries
from kneegrade.server.destinations.destination_settings import StowSettings
from kneegrade.server.spool.film_spool import Spool
settings = SimpleNamespace(destination=[StowSettings(name="web", url=sys.argv[2])])
run_deliveries(settings, Spool(Path(sys.argv[1]), min_free_bytes=0))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stop_loses_no_delivery(spool, number):
    """Stopped while an object is under way: it is still due, is sent again, and has the same UID."""
    key = put_three(spool, "web")
    arrived = threading.Event()

    def slowly(path, body):
        arrived.set()
        return Answer(200, stow_answer([uid_in(body)]), wait=0.7)

    with running_web_peer(slowly) as peer:
        environment = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(spool.directory), peer.url], env=environment, stderr=subprocess.PIPE
        )
        assert arrived.wait(30)
        process.send_signal(number)
        _, errors = process.communicate(timeout=15)
        assert errors == b""
        first = [uid_in(body) for *_, body in peer.requests]
        sent = [name for name, (state, *_) in states(spool, key, "web").items() if state == "sent"]
        assert (process.returncode, sent) == ((0, ["sr.dcm"]) if number == signal.SIGTERM else (-9, []))
        peer.answer = accepts
        deliver_due(spool, StowDestination(StowSettings(name="web", url=peer.url)))
    assert {uid_in(body) for *_, body in peer.requests} == {"2.25.11", "2.25.12", "2.25.13"}
    assert first == ["2.25.11"]
    assert {state for state, *_ in states(spool, key, "web").values()} == {"sent"}
