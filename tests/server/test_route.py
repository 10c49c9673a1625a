"""Films go round: Orthanc routes them to kneegrade, the results come back, and nothing is sent in a circle."""

import json
import time
import urllib.request
from pathlib import Path

import pytest
from archive import AE_TITLE, Archive, needs_orthanc, running_archive
from delivery_peers import FILES, free_port, put_results, put_three, running_node, small_object

pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')
pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from kneegrade.server.delivery import Round, deliver_due
from kneegrade.server.destination_settings import DimseSettings, StowSettings
from kneegrade.server.dimse_destination import DimseDestination
from kneegrade.server.spool import Spool
from kneegrade.server.stow_destination import StowDestination

pytestmark = needs_orthanc
SCRIPT = Path(__file__).parents[2] / "deploy" / "orthanc" / "route.lua"
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
KNEE = {"Modality": "DX", "BodyPartExamined": "KNEE"}
ALL = [CR, DX, *FILES.values()]


def settings(port: int) -> dict[str, object]:
    peer = {"AET": "PACS", "Host": "127.0.0.1", "Port": port, "Timeout": 2}
    return {"LuaScripts": [str(SCRIPT)], "DicomModalities": {"kneegrade": peer}, "ExecuteLuaEnabled": True}


def store(archive: Archive, content: bytes) -> None:
    urllib.request.urlopen(f"{archive.url}/instances", content).close()


def beat(archive: Archive) -> None:
    """What Orthanc 1.11.1 and later do at each heartbeat."""
    urllib.request.urlopen(f"{archive.url}/tools/execute-script", b"OnHeartBeat()").close()


def wait_until(received: list[str], uid: str) -> None:
    """Wait for an object that is sent last."""
    end = time.monotonic() + 15
    while uid not in received and time.monotonic() < end:
        time.sleep(0.05)
    assert uid in received


def test_films_go_to_kneegrade_and_results_come_back_without_a_loop(tmp_path):
    port = free_port()
    with running_archive(tmp_path, settings(port)) as archive:
        store(archive, small_object("2.25.1", DX, **KNEE))  # kneegrade is away; the film waits
        store(archive, small_object("2.25.7", DX, **KNEE))  # it waits too, and is deleted
        (deleted,) = json.loads(urllib.request.urlopen(f"{archive.url}/tools/lookup", b"2.25.7").read())
        urllib.request.urlopen(urllib.request.Request(f"{archive.url}{deleted['Path']}", method="DELETE")).close()
        store(archive, small_object("2.25.2", CR, Modality="CR", BodyPartExamined="CHEST"))
        store(archive, small_object("2.25.3", CR, Modality="CR", StudyDescription="X-ray both knees"))
        with running_node(lambda uid: 0, port, ALL) as (received, _):
            beat(archive)
            wait_until(received, "2.25.3")
            assert received == ["2.25.1", "2.25.3"]

            spool = Spool(tmp_path / "spool", min_free_bytes=0)
            put_three(spool, "pacs", "web")
            pacs = DimseSettings(name="pacs", title=AE_TITLE, host="127.0.0.1", port=archive.dicom_port)
            web = StowSettings(name="web", url=f"{archive.url}/dicom-web")
            assert deliver_due(spool, DimseDestination(pacs)) == Round(sent=3)
            assert deliver_due(spool, StowDestination(web)) == Round(sent=3)
            # even a radiograph, if it comes from kneegrade or says so
            own = {"own.dcm": small_object("2.25.4", DX, **KNEE)}
            put_results(spool, own, "pacs", number=9)
            deliver_due(spool, DimseDestination(pacs))
            spool.close()
            store(archive, small_object("2.25.5", DX, **KNEE, ManufacturerModelName="kneegrade"))
            store(archive, small_object("2.25.6", DX, **KNEE))
            wait_until(received, "2.25.6")
            assert received == ["2.25.1", "2.25.3", "2.25.6"]
            assert json.loads(archive.get("/statistics"))["CountInstances"] == 3 + 3 + 1 + 2
