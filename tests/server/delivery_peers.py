"""What the tests of deliveries send, and those that they send it to."""

import io
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from kneegrade.server.spool.film_spool import Spool

STORESCP = shutil.which("storescp")
needs_storescp = pytest.mark.skipif(STORESCP is None, reason="storescp is missing: apt-get install dcmtk")
SR, GSPS, SC = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.7"
FILES = {"sr.dcm": SR, "gsps.dcm": GSPS, "sc.dcm": SC}


class Clock:
    """Seconds since 1970 that pass only if a test says so."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def small_object(uid: str, sop_class: str = SR, **elements: str) -> bytes:
    """A DICOM object with little in it, and elements by keyword."""
    made = pydicom.Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class, uid
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", f"1.2.3.{sop_class[-1]}"
    made.PatientID, made.PatientName, made.Modality = "P1", "CANARY^NAME", "OT"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = sop_class, uid
    content = io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    return content.getvalue()


def put_results(spool: Spool, files: Mapping[str, bytes], *destinations: str, number: int = 0) -> str:
    """The key of a film that was received and graded, and whose results are due at the destinations."""
    stream, path = spool.temporary_file()
    with stream:
        stream.write(b"film %d" % number)
    spool.accept(path, kind="dicom", sop_instance_uid=f"1.2.{number}", sender="TEST")
    film = spool.claim()
    assert film is not None
    with spool.writing_results(film.key) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    spool.finish(film.key, deliveries={one: list(files) for one in destinations})
    return film.key


def put_three(spool: Spool, *destinations: str, number: int = 1) -> str:
    """As `put_results`, with an SR, a GSPS and an SC, whose UIDs are 2.25.N1, 2.25.N2 and 2.25.N3."""
    files = {name: small_object(f"2.25.{number}{i}", sop) for i, (name, sop) in enumerate(FILES.items(), 1)}
    return put_results(spool, files, *destinations, number=number)


def states(spool: Spool, key: str, destination: str) -> dict[str, tuple[str, int, str | None]]:
    """Name of the object → state, attempts and reason at a destination."""
    rows = [row for row in spool.deliveries(key) if row.destination == destination]
    return {row.object: (row.state, row.attempts, row.reason) for row in rows}


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running_storescp(folder: Path, port: int, *options: str) -> Iterator[Path]:
    """dcmtk's storescp; yields the folder in which it stores what it takes."""
    folder.mkdir(exist_ok=True)
    command = [str(STORESCP), "-q", "-dhl", "-aet", "PACS", "-od", str(folder), *options, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        time.sleep(0.05)
        yield folder
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def running_node(status: Callable[[str], int], port: int = 0, contexts: list[str] | None = None) -> Iterator[Any]:
    """A DICOM node that answers each object with a status by its UID; yields the list of UIDs and the port."""
    from pynetdicom import AE, evt

    received = list[str]()

    def on_store(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        received.append(uid)
        return status(uid)

    entity = AE("PACS")
    for sop_class in contexts or FILES.values():
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    assert server is not None
    try:
        yield received, int(server.server_address[1])
    finally:
        server.shutdown()
        entity.shutdown()
