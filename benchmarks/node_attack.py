"""Attacks on the DICOM node, its throughput, and 20 kills under load.

    python benchmarks/node_attack.py attacks          # growth of memory and the slowest C-ECHO during each attack
    python benchmarks/node_attack.py load             # films per second from 20 associations
    python benchmarks/node_attack.py idle             # processor time of 20 associations that say nothing
    python benchmarks/node_attack.py kills            # acknowledged films after 20 SIGKILLs
    python benchmarks/node_attack.py soak --minutes 10

Needs dcmtk (echoscu, storescu) and Linux (/proc). Every node has a process of its own and a temporary folder.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

SOURCE = Path(__file__).resolve().parents[1] / "src"
MIB = 1 << 20
STORE, FIND, ECHO, EVENT_REPORT = 1, 0x20, 0x30, 0x100  # commands
VERIFICATION = "1.2.840.10008.1.1"
PROGRAM = """
import json, logging, sys
from pathlib import Path
from types import SimpleNamespace
settings = json.loads(sys.argv[1])
logging.basicConfig(level=settings.pop("log_level", "INFO"))
from kneegrade.server.node.node_process import run_node
from kneegrade.server.spool.film_spool import Spool
spool = Spool(Path(settings.pop("spool")), min_free_bytes=settings.pop("min_free_bytes"))
print("recovered", spool.recover(), flush=True)
tls = settings.pop("tls")
node = SimpleNamespace(**settings, tls=tls and SimpleNamespace(**tls))
run_node(SimpleNamespace(node=node), spool, lambda port: print("ready", port, flush=True))
"""
SETTINGS: dict[str, Any] = {
    "address": "127.0.0.1", "port": 0, "title": "KNEEGRADE", "associations": 20, "connections": 32,
    "connections_per_address": 32, "object_mib": 256, "pdu_kib": 128,
    "calling": {"SENDER": [], "ECHO": ["127.0.0.1"], "ELSEWHERE": ["192.0.2.0/24"]}, "tls": None,
    "min_free_bytes": 0,
}  # fmt: skip


class NodeProcess:
    """A DICOM node in a process of its own.

    Attributes:
        port: that it listens on.
        spool: its folder.
        log: file of what it prints.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.spool, self.log = folder / "spool", folder / "node.log"
        arguments = json.dumps(SETTINGS | settings | {"spool": str(self.spool)})
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, arguments], stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment,
            )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready"):
                self.port = int(line.split()[1])
                return
        self.process.wait()
        self.process.stdout.close()
        raise RuntimeError(self.log.read_text()[-3000:])

    def rss_mib(self) -> float:
        """Resident memory."""
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(match.group(1)) / 1024 if match else 0.0

    def threads(self) -> int:
        """Number of threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def processor_seconds(self) -> float:
        """Processor time since its start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def files(self, folder: str) -> list[Path]:
        """Files in a folder of the spool."""
        return list((self.spool / folder).iterdir())

    def echo(self, title: str = "ECHO", *options: str) -> float | None:
        """The seconds that a C-ECHO of dcmtk takes, with its process; None if it fails."""
        command = ["echoscu", "-to", "10", "-ta", "10", "-aet", title, "-aec", "KNEEGRADE", *options, "127.0.0.1"]
        start = time.monotonic()
        done = subprocess.run([*command, str(self.port)], capture_output=True)
        return time.monotonic() - start if done.returncode == 0 else None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status after a signal."""
        self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def running_node(folder: Path, **settings: Any) -> Iterator[NodeProcess]:
    """A node that is killed at the end of the block."""
    node = NodeProcess(folder, **settings)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.stop(signal.SIGKILL)


class Watch:
    """Measures, in a `with` block, the growth of a node's memory and the slowest of its answers to C-ECHO.

    Attributes:
        growth_mib: the highest resident memory less the one at the beginning.
        slowest_seconds: of the answers.
        failures: number of C-ECHOs that were not answered.
        echoes: number of C-ECHOs.
    """

    def __init__(self, node: NodeProcess, *echo_options: str) -> None:
        self._node, self._options = node, echo_options
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._memory), threading.Thread(target=self._echo)]
        self.growth_mib, self.slowest_seconds, self.failures, self.echoes = 0.0, 0.0, 0, 0

    def __enter__(self) -> "Watch":
        self._before = self._node.rss_mib()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._stop.wait(0.02):
            self.growth_mib = max(self.growth_mib, self._node.rss_mib() - self._before)

    def _echo(self) -> None:
        while True:
            seconds = self._node.echo("ECHO", *self._options)
            self.echoes += 1
            if seconds is None:
                self.failures += 1
            else:
                self.slowest_seconds = max(self.slowest_seconds, seconds)
            if self._stop.wait(0.1):
                return


# Films


def make_films(folder: Path, number: int, side: int) -> list[Path]:
    """Computed radiographs of noise, with `side` rows and columns."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    paths = []
    for index in range(number):
        path = folder / f"{index:04d}.dcm"
        film = new_film(f"2.25.{side}{index:05d}")
        film.Rows = film.Columns = side
        film.PixelData = noise.integers(0, 4096, (side, side), dtype="uint16").tobytes()
        film.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def new_film(uid: str, sop_class: str = ComputedRadiographyImageStorage, **values: Any) -> pydicom.Dataset:
    """A film of 64 x 64 pixels."""
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = sop_class
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = uid
    film.StudyInstanceUID, film.SeriesInstanceUID, film.Modality = "2.25.1", "2.25.2", "CR"
    film.PatientName, film.PatientID = "Nobody", "0"
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.Rows = film.Columns = 64
    film.PixelData = bytes(64 * 64 * 2)
    for name, value in values.items():
        setattr(film, name, value)
    return film


def send(port: int, films: list[Path], associations: int) -> list["subprocess.Popen[str]"]:
    """Processes of storescu that share the films."""
    parts = [films[index::associations] for index in range(associations)]
    command = ["storescu", "-v", "-aet", "SENDER", "-aec", "KNEEGRADE", "127.0.0.1", str(port)]
    return [
        subprocess.Popen(
            [*command, *map(str, part)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for part in parts
        if part
    ]


def acknowledged(output: str) -> list[Path]:
    """The films for which storescu had an answer of success."""
    films, current = [], None
    for line in output.splitlines():
        if match := re.search(r"Sending file: (.*)$", line):
            current = Path(match.group(1))
        if "Received Store Response (Success)" in line and current is not None:
            films.append(current)
    return films


# Attacks: each says what happened


def pdu(kind: int, body: bytes) -> bytes:
    """A protocol data unit."""
    return struct.pack(">BBL", kind, 0, len(body)) + body


def fragment(context: int, control: int, data: bytes) -> bytes:
    """A P-DATA-TF PDU with one fragment; control: 1 command, 2 last."""
    return pdu(4, struct.pack(">LBB", len(data) + 2, context, control) + data)


def flood(sock: socket.socket, block: bytes, limit: int) -> tuple[int, bool]:
    """Bytes that were sent until the peer ended the connection or `limit` was reached, and whether it ended it."""
    sent = 0
    sock.settimeout(20)
    try:
        while sent < limit:
            sock.sendall(block)
            sent += len(block)
        return sent, sock.recv(1) == b""
    except TimeoutError:
        return sent, False
    except OSError:
        return sent, True


def told(result: tuple[int, bool]) -> str:
    """The result of `flood` in words."""
    return f"{'cut off' if result[1] else 'NOT cut off'} after {result[0] / MIB:.1f} MiB"


def association_request(
    title: str = "SENDER", syntaxes: int = 1, contexts: int = 2, called: str = "KNEEGRADE"
) -> bytes:
    """An association request as bytes; context 1 is for computed radiographs, the others for verification."""
    body = b"\0\1\0\0" + b"KNEEGRADE".ljust(16) + title.encode().ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for index in range(contexts):
        abstract = VERIFICATION if index else str(ComputedRadiographyImageStorage)
        inner = _item(0x30, abstract.encode()) + _item(0x40, ExplicitVRLittleEndian.encode()) * syntaxes
        body += _item(0x20, bytes([2 * index + 1, 0, 0, 0]) + inner)
    user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.34")
    return pdu(1, body + _item(0x50, user))


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(data)) + data


@contextmanager
def raw_association(port: int, title: str = "SENDER") -> Iterator[tuple[socket.socket, int]]:
    """The socket of an association, and the number of its context for computed radiographs."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(association_request(title))
        if sock.recv(65536)[:1] != b"\2":
            raise ConnectionError("no association")
        yield sock, 1


def element(number: int, value: bytes) -> bytes:
    """An element of a command set."""
    return struct.pack("<HHL", 0, number, len(value)) + value


def command_set(kind: int, *, sop_class: str = VERIFICATION, uid: bytes = b"", has_data: bool = False) -> bytes:
    """A command set, with whatever `uid` is."""
    body = element(2, sop_class.encode() + b"\0" * (len(sop_class) % 2))
    body += element(0x100, struct.pack("<H", kind)) + element(0x110, b"\1\0") + element(0x700, b"\0\0")
    body += element(0x800, b"\1\0" if has_data else b"\1\1")
    if uid:
        body += element(0x1000, uid + b"\0" * (len(uid) % 2))
    if kind == EVENT_REPORT:
        body += element(0x1002, b"\1\0")
    return element(0, struct.pack("<L", len(body))) + body


def store_command(uid: bytes = b"1.2.3") -> bytes:
    """A C-STORE request."""
    return command_set(STORE, sop_class=ComputedRadiographyImageStorage, uid=uid, has_data=True)


def answered_status(sock: socket.socket) -> int | None:
    """The status in the next answer; None if the connection ended."""
    sock.settimeout(20)
    with suppress(OSError):
        answer = sock.recv(65536)
        place = answer.find(struct.pack("<HHL", 0, 0x900, 2))
        return int.from_bytes(answer[place + 8 : place + 10], "little") if place >= 0 else None
    return None


def long_request(node: NodeProcess, announced: int = 700 * MIB) -> str:
    """An association request that announces 700 MiB."""
    with socket.create_connection(("127.0.0.1", node.port)) as sock:
        sock.sendall(struct.pack(">BBL", 1, 0, announced))
        return told(flood(sock, bytes(65536), announced))


def longest_request(node: NodeProcess) -> str:
    """An association request that announces 4 GiB."""
    return long_request(node, 0xFFFFFFFF)


def long_data(node: NodeProcess, announced: int = 0xFFFFFFFF) -> str:
    """A P-DATA-TF PDU of 4 GiB within an association."""
    with raw_association(node.port) as (sock, _):
        sock.sendall(struct.pack(">BBL", 4, 0, announced))
        return told(flood(sock, bytes(65536), announced))


def garbage(node: NodeProcess) -> str:
    """PDUs of every type with random content, truncated ones and no DICOM at all."""
    noise, ended = random.Random(0), 0
    for number in range(60):
        body = noise.randbytes(noise.randrange(0, 2000))
        data = [pdu(number % 9, body), pdu(1, body)[: noise.randrange(1, 20)], body, b"GET / HTTP/1.1\r\n\r\n"][
            number % 4
        ]
        with socket.create_connection(("127.0.0.1", node.port)) as sock, suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(5)
            while sock.recv(4096):
                pass
            ended += 1
    return f"{ended} of 60 connections ended"


def endless_command(node: NodeProcess, limit: int = 400 * MIB) -> str:
    """Fragments of a command set of which none is the last."""
    with raw_association(node.port) as (sock, context):
        return told(flood(sock, fragment(context, 1, bytes(16000)), limit))


def endless_data(node: NodeProcess, limit: int = 400 * MIB) -> str:
    """Fragments of a data set without a command."""
    with raw_association(node.port) as (sock, context):
        return told(flood(sock, fragment(context, 0, bytes(16000)), limit))


def endless_find(node: NodeProcess, limit: int = 400 * MIB) -> str:
    """A C-FIND request whose data set never ends."""
    with raw_association(node.port) as (sock, context):
        sock.sendall(fragment(context, 3, command_set(FIND, sop_class="1.2.3", has_data=True)))
        return told(flood(sock, fragment(context, 0, bytes(16000)), limit))


def data_after_a_film_in_one_pdu(node: NodeProcess, limit: int = 400 * MIB) -> str:
    """A whole film in one PDU, then endless data without a command."""
    with raw_association(node.port) as (sock, context):
        command = store_command(b"1.2.3.4")
        both = b"".join(
            struct.pack(">LBB", len(data) + 2, context, control) + data
            for control, data in ((3, command), (2, bytes(64)))
        )
        sock.sendall(pdu(4, both))
        return told(flood(sock, fragment(context, 0, bytes(16000)), limit))


def endless_film(node: NodeProcess, limit: int = 600 * MIB) -> str:
    """A film that never ends."""
    with raw_association(node.port) as (sock, context):
        sock.sendall(fragment(context, 3, store_command()))
        result = flood(sock, fragment(context, 0, bytes(16000)), limit)
    time.sleep(1)
    return f"{told(result)}; {len(node.files('tmp'))} files left in tmp"


def messages_without_waiting(node: NodeProcess, limit: int = 20 * MIB) -> str:
    """C-ECHO requests whose answers are not awaited."""
    with raw_association(node.port) as (sock, context):
        echo = fragment(context, 3, command_set(ECHO))
        return told(flood(sock, echo * 500, limit))


def films_without_waiting(node: NodeProcess, limit: int = 100 * MIB) -> str:
    """Small films whose answers are not awaited."""
    with raw_association(node.port) as (sock, context):
        film = fragment(context, 3, store_command(b"1.2.3.5")) + fragment(context, 2, bytes(100))
        return told(flood(sock, film * 200, limit))


def event_reports(node: NodeProcess, limit: int = 20 * MIB) -> str:
    """N-EVENT-REPORT requests: pynetdicom starts a thread for each."""
    with raw_association(node.port) as (sock, context):
        report = fragment(context, 3, command_set(EVENT_REPORT, uid=b"1.2"))
        return f"{told(flood(sock, report * 500, limit))}; {node.threads()} threads"


def idle_connections(node: NodeProcess, number: int = 300, seconds: float = 3.0) -> str:
    """Connections that say nothing."""
    socks = []
    for _ in range(number):
        with suppress(OSError):
            socks.append(socket.create_connection(("127.0.0.1", node.port), timeout=5))
    time.sleep(seconds)
    threads = node.threads()
    for sock in socks:
        sock.close()
    return f"{number} connections, {threads} threads"


def half_headers(node: NodeProcess, number: int = 60, seconds: float = 3.0) -> str:
    """Connections that send a byte of an association request now and then."""
    socks = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(number)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for sock in socks:
            with suppress(OSError):
                sock.send(b"\1")
        time.sleep(0.5)
    threads = node.threads()
    for sock in socks:
        sock.close()
    return f"{number} connections, {threads} threads"


def idle_associations(node: NodeProcess, number: int = 40, seconds: float = 4.0) -> str:
    """Associations that say nothing."""
    socks, granted = [], 0
    for _ in range(number):
        sock = socket.create_connection(("127.0.0.1", node.port), timeout=20)
        socks.append(sock)
        with suppress(OSError):
            sock.sendall(association_request())
            granted += sock.recv(4096)[:1] == b"\2"
    time.sleep(seconds)
    threads = node.threads()
    for sock in socks:
        sock.close()
    return f"{granted} granted, {number - granted} rejected, {threads} threads"


def many_associations(node: NodeProcess, seconds: float = 10.0) -> str:
    """Associations that are opened and closed, one after the other, from four threads."""
    end, counts = time.monotonic() + seconds, [0] * 4

    def run(index: int) -> None:
        while time.monotonic() < end:
            with suppress(OSError), raw_association(node.port):
                counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{sum(counts)} associations, {node.threads()} threads"


def many_contexts(node: NodeProcess) -> str:
    """Association requests of 60 KiB full of presentation contexts and transfer syntaxes."""
    request, answered = association_request(contexts=128, syntaxes=18), 0
    for _ in range(20):
        with suppress(OSError), socket.create_connection(("127.0.0.1", node.port), timeout=10) as sock:
            sock.sendall(request)
            answered += bool(sock.recv(100))
    return f"{answered} of 20 requests of {len(request) // 1024} KiB answered"


HOSTILE_UIDS = (
    "../../../../etc/passwd", "/etc/passwd", "1.2.3/../../x", "..", ".", "1.2.3 ", "a" * 64, "1" * 64, "1.2.3\n1.2.3",
    "1.2.3;rm -rf /", "$(id)", "1.2.3\\1.2.4", "%2e%2e%2f", "C:\\x", "\x1b[31m", "1.2.3'--", "<script>", "{0}", "%s%n",
)  # fmt: skip


def hostile_uids(node: NodeProcess, number: int = 500) -> str:
    """Films whose SOP Instance UIDs are paths, commands or noise."""
    noise, answers = random.Random(1), {"stored": 0, "refused": 0, "cut off": 0}
    texts = [text.encode() for text in HOSTILE_UIDS]
    while len(texts) < number:
        texts.append(noise.randbytes(noise.randrange(1, 80)) if len(texts) % 2 else _noisy_path(noise))
    while texts:
        with raw_association(node.port) as (sock, context):
            while texts:
                sock.sendall(fragment(context, 3, store_command(texts.pop())) + fragment(context, 2, bytes(64)))
                status = answered_status(sock)
                answers["stored" if status == 0 else "cut off" if status is None else "refused"] += 1
                if status is None:
                    break
    return ", ".join(f"{count} {what}" for what, count in answers.items())


def _noisy_path(noise: random.Random) -> bytes:
    return bytes(noise.choice(b"./\\0123456789abc \n\t;|&$`'\"<>") for _ in range(noise.randrange(1, 64)))


def stalled_handshakes(node: NodeProcess, number: int = 60, seconds: float = 3.0) -> str:
    """Connections to a node with TLS that never shake hands."""
    return idle_connections(node, number, seconds)


ATTACKS: tuple[Callable[[NodeProcess], str], ...] = (
    long_request, longest_request, long_data, garbage, many_contexts, endless_command, endless_data, endless_find,
    data_after_a_film_in_one_pdu, endless_film, messages_without_waiting, films_without_waiting, event_reports,
    idle_connections, half_headers, idle_associations, many_associations, hostile_uids,
)  # fmt: skip


# Certificates


def make_certificates(folder: Path) -> None:
    """`ca.pem`, `server.pem`, `client.pem` and `stranger.pem` with their keys, by openssl."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout",
                f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out",
                f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                "2", "-out", f"{name}.pem")  # fmt: skip


def tls_answers(port: int, folder: Path, certificate: str | None) -> bool:
    """Whether an association is granted over TLS, with a client's certificate or without."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, context.wrap_socket(sock) as secured:
            secured.sendall(association_request("ECHO"))
            return secured.recv(4096)[:1] == b"\2"
    except OSError:
        return False


# What is printed


def run_attacks(folder: Path) -> None:
    with running_node(folder) as node:
        before = {str(path) for path in folder.rglob("*")}
        print("| attack | result | growth, MiB | slowest C-ECHO, s |\n|---|---|---|---|")
        for attack in ATTACKS:
            with Watch(node) as watch:
                result = attack(node)
            echo = f"{watch.slowest_seconds:.2f}" + (f", {watch.failures} failed" if watch.failures else "")
            title = (attack.__doc__ or "").rstrip(".")
            print(f"| {title} | {result} | {watch.growth_mib:.1f} | {echo} |", flush=True)
        time.sleep(2)
        outside = {str(path) for path in folder.rglob("*")} - before
        outside = {path for path in outside if not path.startswith(str(node.spool))}
        print(f"files outside the spool: {len(outside)}; threads {node.threads()}; exit status {node.stop()}")
    tls = folder / "tls"
    make_certificates(tls)
    files = {"certificate": str(tls / "server.pem"), "key": str(tls / "server.key"), "clients": str(tls / "ca.pem")}
    with running_node(folder, tls=files) as node:
        with Watch(node, "+tls", str(tls / "client.key"), str(tls / "client.pem"), "-ic") as watch:
            result = stalled_handshakes(node)
        print(
            f"stalled TLS: {result}, +{watch.growth_mib:.1f} MiB, slowest C-ECHO over TLS "
            f"{watch.slowest_seconds:.2f} s, {watch.failures} of {watch.echoes} failed"
        )
        for certificate in ("client", None, "stranger"):
            print(f"TLS with the certificate {certificate}: answered {tls_answers(node.port, tls, certificate)}")


def run_load(folder: Path) -> None:
    for side, number in ((64, 1000), (1500, 60)):
        films = make_films(folder / f"films{side}", number, side)
        (folder / str(side)).mkdir()
        with running_node(folder / str(side)) as node:
            before, peak, start = node.rss_mib(), 0.0, time.monotonic()
            senders = send(node.port, films, 20)
            pool = ThreadPoolExecutor(len(senders))
            outputs = [pool.submit(sender.communicate) for sender in senders]
            while any(sender.poll() is None for sender in senders):
                peak = max(peak, node.rss_mib() - before)
                time.sleep(0.05)
            seconds = time.monotonic() - start
            got = sum(len(acknowledged(output.result()[0])) for output in outputs)
            pool.shutdown()
            print(f"{number} films of {films[0].stat().st_size >> 10} KiB from 20 associations: {seconds:.1f} s, "
                  f"{number / seconds:.0f} a second, {got} acknowledged, {len(node.files('films'))} on disk, "
                  f"{len(node.files('tmp'))} in tmp, +{peak:.1f} MiB", flush=True)  # fmt: skip


def run_idle(folder: Path, seconds: float = 10.0) -> None:
    with running_node(folder) as node, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(raw_association(node.port))
        time.sleep(1)
        before = node.processor_seconds()
        time.sleep(seconds)
        share = (node.processor_seconds() - before) / seconds
        print(f"20 idle associations take {100 * share:.0f} % of a processor core")


def run_kills(folder: Path, trials: int, associations: int = 20) -> int:
    """The number of acknowledged films that were lost."""
    from kneegrade.server.spool.film_spool import Spool

    films = make_films(folder / "films", 1000, 64)
    uids = {path: str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in films}
    everything, lost = 0, 0
    for trial in range(trials):
        place = folder / f"trial{trial}"
        place.mkdir()
        with running_node(place) as node:
            senders = send(node.port, films, associations)
            time.sleep(random.Random(trial).uniform(0.3, 4.0))
            node.stop(signal.SIGKILL)
            sent = {path for sender in senders for path in acknowledged(sender.communicate(timeout=120)[0])}
        spool = Spool(node.spool, min_free_bytes=0)
        spool.recover()
        kept = {row.sop_instance_uid for row in spool.films(limit=10**6) if row.path.exists()}
        kept |= {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in node.files("films")}
        rows, on_disk = sum(spool.counts()["films"].values()), len(node.files("films"))
        spool.close()
        missing = sum(uids[path] not in kept for path in sent) + abs(rows - on_disk)
        everything, lost = everything + len(sent), lost + missing
        print(
            f"kill {trial}: {len(sent)} acknowledged, {on_disk} on disk, {rows} rows, {missing} lost",
            flush=True,
        )
        shutil.rmtree(place)
    print(f"{trials} kills: {everything} acknowledged, {lost} lost")
    return lost


def run_soak(folder: Path, minutes: float) -> float:
    """The growth of memory in MiB a minute."""
    films = make_films(folder / "films", 200, 64)
    with running_node(folder) as node:
        start, count, points = time.monotonic(), 0, []
        while (passed := (time.monotonic() - start) / 60) < minutes:
            for sender in send(node.port, films, 10):
                sender.communicate()
                count += 1
            points.append((passed, node.rss_mib()))
            if count % 100 == 0:
                handles = len(os.listdir(f"/proc/{node.process.pid}/fd"))
                print(f"{passed:.1f} min: {count} associations, {points[-1][1]:.1f} MiB, {node.threads()} threads, "
                      f"{handles} files open", flush=True)  # fmt: skip
        warm = np.array([point for point in points if point[0] > min(2.0, minutes / 4)])
        slope = float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0])
        print(f"{count} associations in {minutes:g} min: {slope:+.3f} MiB a minute after the first "
              f"{min(2.0, minutes / 4):g} min, exit status {node.stop()}")  # fmt: skip
        return slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attacks", "load", "idle", "kills", "soak"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kneegrade-node-"))
    try:
        if arguments.what == "attacks":
            run_attacks(folder)
        elif arguments.what == "load":
            run_load(folder)
        elif arguments.what == "idle":
            run_idle(folder)
        elif arguments.what == "kills":
            run_kills(folder, arguments.kills)
        else:
            run_soak(folder, arguments.minutes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
