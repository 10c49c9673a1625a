"""Results to DICOM nodes that are away, refuse, are slow, or have an opinion of their own."""

import gc
import io
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pydicom
import pytest
from delivery_peers import (
    SC,
    SR,
    Clock,
    free_port,
    needs_storescp,
    put_results,
    put_three,
    running_node,
    running_storescp,
    small_object,
    states,
)

pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')

from kneegrade.server.destinations.delivery import Round, deliver_due
from kneegrade.server.destinations.destination_settings import DimseSettings, TlsSettings
from kneegrade.server.destinations.dimse_destination import DimseDestination
from kneegrade.server.spool.film_spool import Spool

# pynetdicom leaves the socket of a connection that was refused to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def no_sockets_are_left():
    yield
    gc.collect()


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=Clock())
    yield spool
    spool.close()


def pacs(port: int, **settings: object) -> DimseDestination:
    return DimseDestination(
        DimseSettings.model_validate({"name": "pacs", "title": "PACS", "host": "127.0.0.1", "port": port, **settings}),
        answer_seconds=0.5,
    )


def stored(folder: Path) -> list[str]:
    return sorted(str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.iterdir())


@needs_storescp
def test_a_node_that_is_away_for_an_hour_gets_each_object_once(spool, tmp_path, no_sockets_are_left):
    port = free_port()
    destination, clock = pacs(port), spool._clock
    keys = [put_three(spool, "pacs", number=number) for number in (1, 2)]
    end = clock.now + 3600
    while clock.now < end:
        assert deliver_due(spool, destination).sent == 0
        clock.now += 600
    waiting = [state for key in keys for state in states(spool, key, "pacs").values()]
    assert {state for state, _, _ in waiting} == {"due"}
    assert "No connection." in {reason for _, _, reason in waiting}
    with running_storescp(tmp_path / "pacs", port) as folder:
        clock.now += 3600
        assert deliver_due(spool, destination) == Round(sent=6)
        assert deliver_due(spool, destination) == Round()
    assert stored(folder) == ["2.25.11", "2.25.12", "2.25.13", "2.25.21", "2.25.22", "2.25.23"]
    assert spool.counts()["deliveries"] == {"due": 0, "sent": 6, "dead": 0}


@needs_storescp
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--refuse"], "The association was rejected (No reason given)."),
        (["--abort-during"], "No answer."),
        (["--abort-after"], "No answer."),
        (["--sleep-during", "2"], "No answer."),
    ],
)
def test_after_a_failure_of_the_node_the_rest_of_the_round_waits_untouched(spool, tmp_path, options, reason):
    port = free_port()
    key = put_three(spool, "pacs")
    with running_storescp(tmp_path / "pacs", port, *options):
        assert deliver_due(spool, pacs(port)) == Round(failed=1, left=2)
    tried, *others = sorted(states(spool, key, "pacs").values(), key=lambda state: -state[1])
    assert tried == ("due", 1, reason)
    assert others == [("due", 0, None)] * 2
    spool._clock.now += 5
    with running_storescp(tmp_path / "pacs", port) as folder:
        assert deliver_due(spool, pacs(port)) == Round(sent=3)
    assert stored(folder) == ["2.25.11", "2.25.12", "2.25.13"]


STATUS = {
    0x0000: "sent", 0xB000: "sent", 0xB007: "sent", 0x0111: "sent", 0xA700: "due", 0x0110: "due", 0xA801: "due",
    0xA900: "dead", 0xC001: "dead", 0x0122: "dead", 0x0124: "dead",
}  # fmt: skip


def test_each_status_has_its_state_and_one_refusal_stops_no_other_object(spool):
    files = {f"{status:04x}.dcm": small_object(f"2.25.{status}") for status in STATUS}
    key = put_results(spool, files, "pacs")
    with running_node(lambda uid: int(uid.removeprefix("2.25."))) as (received, port):
        done = deliver_due(spool, pacs(port))
        assert done == Round(sent=4, failed=7)
        assert deliver_due(spool, pacs(port)) == Round()  # what failed waits, nothing is sent twice
    assert sorted(received) == sorted(f"2.25.{status}" for status in STATUS)
    found = states(spool, key, "pacs")
    assert {name: state for name, (state, _, _) in found.items()} == {
        f"{status:04x}.dcm": state for status, state in STATUS.items()
    }
    assert found["a700.dcm"] == ("due", 1, "Refused with status A700.")
    assert found["0111.dcm"] == ("sent", 1, None)  # the node has it already


def test_objects_before_a_broken_association_are_not_sent_again(spool):
    """As exports of MONAI's gateway were, once for each object after it (issues 153, 200)."""
    from pynetdicom import AE, evt

    received, is_broken = list[str](), threading.Event()

    def on_store(event):
        received.append(str(event.request.AffectedSOPInstanceUID))
        if len(received) == 2 and not is_broken.is_set():
            is_broken.set()
            event.assoc.abort()
        return 0

    entity = AE("PACS")
    entity.add_supported_context(SR)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        put_results(spool, {f"{i}.dcm": small_object(f"2.25.{i}") for i in range(4)}, "pacs")
        destination = pacs(server.server_address[1])
        assert deliver_due(spool, destination) == Round(sent=1, failed=1, left=2)
        spool._clock.now += 5
        assert deliver_due(spool, destination) == Round(sent=3)
    finally:
        server.shutdown()
    assert sorted(received) == ["2.25.0", "2.25.1", "2.25.1", "2.25.2", "2.25.3"]
    assert spool.counts()["deliveries"] == {"due": 0, "sent": 4, "dead": 0}


@contextmanager
def answering(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A peer that answers a connection with bytes, and then reads until the other side closes it; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                answer(connection)
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("answer", [b"\x02\x00\x00\x00\x00\x40", b""], ids=["half a PDU", "silence"])
def test_a_node_that_falls_silent_is_given_up(spool, answer):
    put_three(spool, "pacs")
    with answering(lambda connection: connection.sendall(answer)) as port:
        start = time.monotonic()
        assert deliver_due(spool, pacs(port)) == Round(failed=1, left=2)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("announced", [700 << 20, (4 << 30) - 1])
def test_no_answer_of_hundreds_of_megabytes_is_read(spool, announced):
    """pynetdicom reads as many bytes into memory as a PDU announces."""
    taken = 0

    def answer(connection: socket.socket) -> None:
        nonlocal taken
        connection.sendall(b"\x02\x00" + announced.to_bytes(4, "big"))
        for _ in range(64):
            connection.sendall(bytes(1 << 20))
            taken += 1

    put_three(spool, "pacs")
    with answering(answer) as port:
        assert deliver_due(spool, pacs(port)) == Round(failed=1, left=2)
    assert taken <= 8  # MiB, in the buffers of the system


def test_a_node_that_stops_reading_is_given_up(spool):
    from pynetdicom import AE, evt

    is_done = threading.Event()
    entity = AE("PACS")
    entity.add_supported_context(SC)
    entity.network_timeout = None
    hold = [(evt.EVT_ESTABLISHED, lambda event: is_done.wait(20))]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=hold)
    try:
        large = pydicom.dcmread(pydicom.filebase.DicomBytesIO(small_object("2.25.1", SC)))
        large.add_new((0x0009, 0x0010), "LO", "TEST")
        large.add_new((0x0009, 0x1001), "OB", bytes(64 << 20))
        content = io.BytesIO()
        large.save_as(content, enforce_file_format=True)
        put_results(spool, {"sc.dcm": content.getvalue()}, "pacs")
        start = time.monotonic()
        assert deliver_due(spool, pacs(server.server_address[1])) == Round(failed=1)
        assert time.monotonic() - start < 10
    finally:
        is_done.set()
        server.shutdown()


def test_a_class_that_the_node_does_not_take_is_given_up_and_the_others_arrive(spool):
    key = put_three(spool, "pacs")
    with running_node(lambda uid: 0, contexts=[SR, SC]) as (received, port):
        deliver_due(spool, pacs(port))
    assert received == ["2.25.11", "2.25.13"] or received == ["2.25.13", "2.25.11"]
    assert states(spool, key, "pacs")["gsps.dcm"] == ("dead", 1, "The SOP class is not accepted.")


@needs_storescp
def test_a_node_that_takes_implicit_vr_only_gets_the_same_data_set(spool, tmp_path):
    port = free_port()
    put_results(spool, {"sr.dcm": small_object("2.25.1")}, "pacs")
    with running_storescp(tmp_path / "pacs", port, "+xi") as folder:
        assert deliver_due(spool, pacs(port)) == Round(sent=1)
    (path,) = folder.iterdir()
    back = pydicom.dcmread(path)
    assert back.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert back == pydicom.dcmread(pydicom.filebase.DicomBytesIO(small_object("2.25.1")))


def test_a_missing_or_damaged_result_is_given_up_and_the_others_arrive(spool):
    key = put_three(spool, "pacs")
    (spool.results(key) / "sr.dcm").unlink()
    (spool.results(key) / "sc.dcm").write_bytes(b"DICM" * 100)
    with running_node(lambda uid: 0) as (received, port):
        assert deliver_due(spool, pacs(port)) == Round(sent=1, failed=2)
    assert received == ["2.25.12"]
    found = states(spool, key, "pacs")
    assert found["sr.dcm"] == ("dead", 1, "The file of the result is missing.")
    assert found["sc.dcm"] == ("dead", 1, "The file of the result is damaged.")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """ca.pem signs pacs.pem and us.pem; other.pem is nobody's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name in ("pacs", "us"):
        openssl(
            "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
            "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1",
        )  # fmt: skip
    return folder


@needs_storescp
def test_tls_with_certificates_on_both_sides(spool, tmp_path, certificates, no_sockets_are_left):
    port = free_port()
    put_three(spool, "pacs")
    files = {name: certificates / name for name in ("ca.pem", "other.pem", "us.pem", "us.key")}
    ours = {"certificate": files["us.pem"], "key": files["us.key"]}
    options = ["+tls", str(certificates / "pacs.key"), str(certificates / "pacs.pem"), "+cf", str(files["ca.pem"])]
    with running_storescp(tmp_path / "pacs", port, *options) as folder:
        for tls in ({"ca": files["other.pem"], **ours}, {"ca": files["ca.pem"]}):
            assert deliver_due(spool, pacs(port, tls=TlsSettings(**tls))) == Round(failed=1, left=2)
            spool._clock.now += 5
        assert deliver_due(spool, pacs(port, tls=TlsSettings(ca=files["ca.pem"], **ours))) == Round(sent=3)
    assert stored(folder) == ["2.25.11", "2.25.12", "2.25.13"]
