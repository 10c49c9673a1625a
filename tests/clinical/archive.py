"""A real archive for tests: Orthanc with DICOMweb, on free ports of the loopback interface."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

PLUGIN = next((p for p in (Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),) if p.exists()), None)
needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or PLUGIN is None,
    reason="Orthanc is missing: apt-get install orthanc orthanc-dicomweb",
)
AE_TITLE = "ARCHIVE"


@dataclass(frozen=True)
class Archive:
    """A running Orthanc.

    Attributes:
        url: of its REST interface.
        dicom_port: of its C-STORE service.
    """

    url: str
    dicom_port: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}") as answer:
            return answer.read()


@contextmanager
def running_archive(folder: Path, more: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Archive]:
    """An empty Orthanc that keeps its files in `folder`; `more` are settings of orthanc.json."""
    http, dicom = _free_port(), _free_port()
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": http, "DicomPort": dicom, "DicomAet": AE_TITLE, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "OverwriteInstances": True,
        "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "HttpsVerifyPeers": False,
        **more,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        archive = Archive(f"http://127.0.0.1:{http}", dicom)
        _wait(archive, process, folder / "orthanc.log")
        yield archive
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(archive: Archive, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(log.read_text(errors="replace")[-2000:])
        try:
            archive.get("/system")
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("Orthanc did not start within 30 s.")
