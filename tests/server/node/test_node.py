"""The DICOM node with real senders (dcmtk): what it accepts, refuses and says, in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[serve]"')
if which("storescu") is None:
    pytest.skip("storescu is missing: apt-get install dcmtk", allow_module_level=True)

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

from node_attack import (  # noqa: E402
    SOURCE,
    VERIFICATION,
    NodeProcess,
    answered_status,
    command_set,
    fragment,
    make_certificates,
    new_film,
    raw_association,
    running_node,
    store_command,
    tls_answers,
)
from pydicom.uid import (  # noqa: E402
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from kneegrade.server.audit_log import read_audit_log  # noqa: E402

CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with running_node(tmp_path_factory.mktemp("node"), object_mib=4, log_level="DEBUG") as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_unfinished(request):
    """No test leaves an unfinished film."""
    yield
    if "node" in request.fixturenames:
        running = request.getfixturevalue("node")
        wait_until(lambda: running.files("tmp") == [])


def store(node, *paths, title="SENDER", options=()):
    """What storescu says."""
    command = ["storescu", "-v", "-aet", title, "-aec", "KNEEGRADE", *options, "127.0.0.1", str(node.port)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)
    return done.stdout + done.stderr


def stored(node, film):
    """The file in the spool with the SOP Instance UID of a film, or None."""
    for path in node.files("films"):
        if pydicom.dcmread(path, stop_before_pixels=True).get("SOPInstanceUID") == film.SOPInstanceUID:
            return path
    return None


def write(film, path):
    film.save_as(path, enforce_file_format=True)
    return path


def test_echo_is_answered(node):
    assert node.echo() is not None


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("STRANGER", "KNEEGRADE", "Calling AE Title Not Recognized"),
        ("ELSEWHERE", "KNEEGRADE", "Calling AE Title Not Recognized"),  # listed, with another address
        ("ECHO", "ANOTHER", "Called AE Title Not Recognized"),
    ],
)
def test_wrong_titles_and_addresses_are_rejected(node, calling, called, reason):
    command = ["echoscu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(node.port)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr


@pytest.mark.parametrize("sop_class", CLASSES, ids=lambda uid: uid.keyword)
def test_films_of_all_classes_are_stored_unchanged(node, tmp_path, sop_class):
    film = new_film(f"2.25.1{CLASSES.index(sop_class)}", sop_class, PixelData=bytes(range(256)) * 32)
    assert "Received Store Response (Success)" in store(node, write(film, tmp_path / "film.dcm"))
    kept = pydicom.dcmread(stored(node, film))
    assert kept == film
    (entry,) = [
        entry for entry in read_audit_log(node.spool / "audit.jsonl") if entry["film"] == stored(node, film).stem
    ]
    assert (entry["event"], entry["sender"], entry["address"]) == ("film_received", "SENDER", "127.0.0.1")


def test_compressed_film_is_stored_as_it_is(node):
    path = ROOT / "examples" / "bilateral.dcm"
    film = pydicom.dcmread(path)
    assert film.file_meta.TransferSyntaxUID.is_compressed
    assert "Received Store Response (Success)" in store(node, path, options=["-xv"])
    kept = pydicom.dcmread(stored(node, film))
    assert kept.file_meta.TransferSyntaxUID == film.file_meta.TransferSyntaxUID
    assert kept.PixelData == film.PixelData


def test_the_same_film_again_is_a_success_and_one_film(node, tmp_path):
    film = new_film("2.25.20")
    path = write(film, tmp_path / "film.dcm")
    before = len(node.files("films"))
    for _ in range(2):
        assert "Received Store Response (Success)" in store(node, path)
    assert len(node.files("films")) == before + 1


def test_other_classes_are_not_offered(node, tmp_path):
    answer = store(node, write(new_film("2.25.30", CTImageStorage), tmp_path / "film.dcm"))
    assert "No presentation context" in answer


@pytest.mark.parametrize(
    ("command", "data", "status"),
    [
        (store_command(b"2.25.40; rm -rf /"), bytes(64), 0x0117),
        (store_command(b"../../../etc/passwd"), bytes(64), 0x0117),
        (store_command(b"2.25.\xff"), bytes(64), 0x0117),
        (store_command(b".."), bytes(64), 0x0117),
        (command_set(1, sop_class=SecondaryCaptureImageStorage, uid=b"2.25.41", has_data=True), bytes(64), 0xA900),
        (command_set(1, sop_class=ComputedRadiographyImageStorage, uid=b"2.25.42"), b"", 0xC000),
        (store_command(b"2.25.43"), bytes(64), 0x0000),
    ],
    ids=["command", "path", "no text", "parent folder", "other class", "no data", "film"],
)
def test_status_codes(node, command, data, status):
    before = len(node.files("films"))
    with raw_association(node.port) as (sock, context):
        sock.sendall(fragment(context, 3, command) + (fragment(context, 2, data) if data else b""))
        assert answered_status(sock) == status
    assert len(node.files("films")) == before + (status == 0)
    wait_until(lambda: node.files("tmp") == [])


def wait_until(is_so, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.05)
    assert is_so()


def test_broken_off_transfer_leaves_nothing(node):
    before = len(node.files("films"))
    with raw_association(node.port) as (sock, context):
        sock.sendall(fragment(context, 3, store_command()) + fragment(context, 0, bytes(5000)))
        wait_until(lambda: len(node.files("tmp")) == 1)
    wait_until(lambda: node.files("tmp") == [])
    assert len(node.files("films")) == before


def test_own_pictures_are_answered_with_success_and_not_kept(node, tmp_path):
    film = new_film("2.25.50", SecondaryCaptureImageStorage, ManufacturerModelName="kneegrade")
    film.SourceImageSequence = [pydicom.Dataset()]
    film.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.51"
    assert "Received Store Response (Success)" in store(node, write(film, tmp_path / "film.dcm"))
    assert stored(node, film) is None


def test_other_messages_end_the_association(node):
    for kind in (0x20, 0x10, 0x21, 0x100, 0x130, 0x140):
        with raw_association(node.port) as (sock, context):
            sock.sendall(fragment(context, 3, command_set(kind, sop_class=VERIFICATION, uid=b"1.2")))
            assert answered_status(sock) is None
    assert node.echo() is not None


def test_nothing_of_a_film_or_peer_is_logged(node, tmp_path):
    """The node logs at level DEBUG here, with failures at every stage."""
    canary = "CANARY7Q"
    command, data = store_command(canary.encode()), canary.encode() * 20
    film = new_film("2.25.77777777777", PatientName=f"{canary}^A", PatientID=canary, AccessionNumber=canary)
    assert "(Success)" in store(node, write(film, tmp_path / f"{canary}.dcm"))
    store(node, tmp_path / f"{canary}.dcm", title=canary)  # a title that is not listed
    with raw_association(node.port) as (sock, context):
        sock.sendall(fragment(context, 3, command) + fragment(context, 2, data))
        assert answered_status(sock) == 0x0117
    for sent in (canary.encode() * 9, b"\1\0\0\0\0\x48" + canary.encode() * 9):
        with socket.create_connection(("127.0.0.1", node.port)) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(100)
    for context in (3, 99):  # a context that is not for films, one that does not exist
        with raw_association(node.port) as (sock, _):
            sock.sendall(fragment(context, 3, command) + fragment(context, 2, data))
            answered_status(sock)
    written = node.log.read_text(errors="replace") + (node.spool / "audit.jsonl").read_text()
    assert "refused" in written
    assert [text for text in (canary, "77777777777", "Traceback", "Warning:") if text in written] == []
    assert [path for path in node.spool.rglob("*") if canary in path.name or "7777" in path.name] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    if which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def tls_node(files, tmp_path_factory):
    names = {"certificate": "server.pem", "key": "server.key", "clients": "ca.pem"}
    tls = {name: str(files / path) for name, path in names.items()}
    with running_node(tmp_path_factory.mktemp("tls-node"), tls=tls) as running:
        yield running


class TestTls:
    @pytest.mark.parametrize(("certificate", "is_answered"), [("client", True), (None, False), ("stranger", False)])
    def test_only_certificates_of_the_authority_are_let_in(self, tls_node, files, certificate, is_answered):
        assert tls_answers(tls_node.port, files, certificate) == is_answered

    def test_plain_connections_are_not_answered(self, tls_node):
        assert tls_node.echo("ECHO", "-ta", "3") is None

    def test_stalled_handshakes_hold_up_nobody(self, tls_node, files):
        stalled = [socket.create_connection(("127.0.0.1", tls_node.port)) for _ in range(40)]
        assert tls_answers(tls_node.port, files, "client")
        for sock in stalled:
            sock.close()

    def test_films_arrive_over_tls(self, tls_node, files, tmp_path):
        film = new_film("2.25.60")
        options = ["+tls", str(files / "client.key"), str(files / "client.pem"), "+cf", str(files / "ca.pem")]
        assert "(Success)" in store(tls_node, write(film, tmp_path / "film.dcm"), options=options)
        assert stored(tls_node, film) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_refused_and_the_node_goes_on(tmp_path):
    disk = tmp_path / "spool"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with running_node(tmp_path, min_free_bytes=2 << 20) as node:
            small = write(new_film("2.25.61"), tmp_path / "small.dcm")
            large = new_film("2.25.62", PixelData=bytes(12 << 20))  # it fills the disk while it arrives
            large.Rows, large.Columns = 3072, 2048
            assert "OutOfResources" in store(node, write(large, tmp_path / "large.dcm"))
            assert (node.files("tmp"), node.files("films")) == ([], [])
            (disk / "filler").write_bytes(bytes(7 << 20))
            assert "OutOfResources" in store(node, small)
            assert node.echo() is not None
            (disk / "filler").unlink()
            assert "(Success)" in store(node, small)
            assert len(node.files("films")) == 1
            assert node.stop(signal.SIGTERM) == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def run_python(program):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("node_service.limit_pdus = lambda *args, **kw: None", "an association request of any length would be read"),
        ("node_server._film_file = node_server.NamedTemporaryFile", "films would not be written into the spool"),
        ("", "passed"),
    ],
)
def test_self_test_refuses_to_serve_where_a_limit_does_not_hold(change, reason):
    """As if a new version of pynetdicom ignored what kneegrade replaces."""
    answer = run_python(
        "from kneegrade.server.node import node_self_test, node_server, node_service\n"
        f"{change}\n"
        "try: node_self_test.check_limits(); print('passed')\n"
        "except Exception as error: print(error)\n"
    )
    assert reason in answer
    assert ("pip install" in answer) == bool(change)


def test_port_in_use_is_named(node, tmp_path):
    with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1, port {node.port} .*port that is free"):
        NodeProcess(tmp_path, port=node.port)


def test_missing_package_is_named():
    answer = run_python(
        "import sys; sys.modules['pynetdicom'] = None\n"
        "from types import SimpleNamespace; from kneegrade.server.node.node_process import run_node\n"
        "try: run_node(SimpleNamespace(node=SimpleNamespace()), None)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    assert re.search(r'UsageError .*pip install "kneegrade\[serve\]"', answer)
