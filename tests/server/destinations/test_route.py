"""Films go round: Orthanc routes them to kneegrade, the results come back, and nothing is sent in a circle."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archive import AE_TITLE, Archive, needs_orthanc, running_archive
from delivery_peers import SC, free_port, put_results, put_three, small_object

pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')
pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from kneegrade.server.destinations.delivery import Round, deliver_due
from kneegrade.server.destinations.destination_settings import DimseSettings, StowSettings
from kneegrade.server.destinations.dimse_destination import DimseDestination
from kneegrade.server.destinations.stow_destination import StowDestination
from kneegrade.server.spool.film_spool import Spool

pytestmark = needs_orthanc
ROOT = Path(__file__).parents[3]
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
KNEE = {"Modality": "DX", "BodyPartExamined": "KNEE"}
NODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from kneegrade.server.node.node_process import run_node
from kneegrade.server.spool.film_spool import Spool
node = SimpleNamespace(address="127.0.0.1", port=int(sys.argv[2]), title="KNEEGRADE", associations=5, connections=9,
                       connections_per_address=9, object_mib=16, pdu_kib=128, tls=None,
                       calling={"ARCHIVE": ["127.0.0.1"]})
spool = Spool(Path(sys.argv[1]), min_free_bytes=0)
run_node(SimpleNamespace(node=node), spool, on_ready=lambda port: print("ready", flush=True))
"""


def orthanc_settings(port: int) -> dict[str, object]:
    peer = {"AET": "KNEEGRADE", "Host": "127.0.0.1", "Port": port, "Timeout": 2}
    script = str(ROOT / "deploy" / "orthanc" / "route.lua")
    return {"LuaScripts": [script], "DicomModalities": {"kneegrade": peer}, "ExecuteLuaEnabled": True}


@contextmanager
def running_kneegrade_node(directory: Path, port: int) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NODE, str(directory), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.terminate()


def store(archive: Archive, content: bytes) -> str:
    """The path of an object in the archive."""
    with urllib.request.urlopen(f"{archive.url}/instances", content) as answer:
        return str(json.loads(answer.read())["Path"])


def beat(archive: Archive) -> None:
    """What Orthanc 1.11.1 and later do at each heartbeat."""
    urllib.request.urlopen(f"{archive.url}/tools/execute-script", b"OnHeartBeat()").close()


def received(spool: Spool, last: str) -> list[str]:
    """SOP Instance UIDs of the films in the spool, once the last one is there."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        uids = [str(film.sop_instance_uid) for film in reversed(spool.films()) if film.sender != "TEST"]
        if last in uids:
            return uids
        time.sleep(0.05)
    return uids


def test_films_go_to_kneegrade_and_results_come_back_without_a_loop(tmp_path):
    port, spool = free_port(), Spool(tmp_path / "spool", min_free_bytes=0)
    put_three(spool, "pacs", "web")
    put_results(
        spool, {"own.dcm": small_object("2.25.4", DX, **KNEE)}, "pacs", number=9
    )  # even if it looks like a film
    with running_archive(tmp_path, orthanc_settings(port)) as archive:
        store(archive, small_object("2.25.1", DX, **KNEE))  # kneegrade is away; the film waits
        deleted = store(archive, small_object("2.25.7", DX, **KNEE))  # it waits too, and is deleted
        urllib.request.urlopen(urllib.request.Request(f"{archive.url}{deleted}", method="DELETE")).close()
        store(archive, small_object("2.25.2", CR, Modality="CR", BodyPartExamined="CHEST"))
        store(archive, small_object("2.25.3", CR, Modality="CR", StudyDescription="X-ray both knees"))
        with running_kneegrade_node(spool.directory, port):
            beat(archive)
            assert received(spool, "2.25.3") == ["2.25.1", "2.25.3"]

            pacs = DimseSettings(name="pacs", title=AE_TITLE, host="127.0.0.1", port=archive.dicom_port)
            web = StowSettings(name="web", url=f"{archive.url}/dicom-web")
            assert deliver_due(spool, DimseDestination(pacs)) == Round(sent=4)
            assert deliver_due(spool, StowDestination(web)) == Round(sent=3)
            store(archive, small_object("2.25.5", DX, **KNEE, ManufacturerModelName="kneegrade"))
            store(archive, small_object("2.25.8", SC, Modality="OT", BodyPartExamined="KNEE"))
            store(archive, small_object("2.25.6", DX, **KNEE))
            assert received(spool, "2.25.6") == ["2.25.1", "2.25.3", "2.25.6"]
            assert {film.sender for film in spool.films()} == {"ARCHIVE", "TEST"}
            assert json.loads(archive.get("/statistics"))["CountInstances"] == 3 + 4 + 3
    spool.close()
