"""Twenty SIGKILLs of the whole service under load, with deliveries to a DICOM node and to a DICOMweb archive."""

import hashlib
import io
import json
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import suppress
from os import kill
from pathlib import Path

import httpx
import pydicom
import pytest
from archive import needs_orthanc, running_archive
from delivery_peers import free_port, needs_storescp, running_storescp
from served import DICOM, EXAMPLES, Serving, children, is_running, until

from kneegrade.server.spool.film_spool import Spool

pytest.importorskip("pynetdicom", reason='needs pip install "kneegrade[dicom]"')
pytest.importorskip("dicomweb_client", reason='needs pip install "kneegrade[dicom]"')

KILLS, ASSOCIATIONS = 20, 20
PROGRESS_SECONDS = 120.0  # in which a film is graded also on a busy machine
PAUSE_SECONDS = 3.0  # of a sender between two attempts: the service needs the processor too
NODE_PORT = r"listens on port (\d+)"
SETTINGS = """
[node]
port = 0
[[destination]]
name = "pacs"
kind = "dimse"
title = "PACS"
host = "127.0.0.1"
port = {pacs}
[[destination]]
name = "web"
kind = "stow"
url = "{web}/dicom-web"
"""


class Load:
    """What senders send while the service is killed, and what it has acknowledged.

    Attributes:
        acknowledged: SOP Instance UIDs of films for which storescu was answered success.
        keys: of films that REST has answered.
        answers: number of all acknowledgements, by way.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._films = [pydicom.dcmread(EXAMPLES / name) for name in ("single_right.dcm", "bilateral.dcm")]
        self._paths: list[Path] = []
        self._uids: dict[str, str] = {}
        self.acknowledged, self.keys = set[str](), set[str]()
        self.answers = {"C-STORE": 0, "REST": 0}

    def new_film(self, number: int) -> Path:
        """One of the two example films with another SOP Instance UID."""
        film, path = self._films[number % 2], self._folder / f"{number:03d}.dcm"
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"2.25.777{number:03d}"
        film.save_as(path, enforce_file_format=True)
        self._uids[path.name] = str(film.SOPInstanceUID)
        return path

    def send(self, service: Serving, number: int, stop: Path) -> list[threading.Thread]:
        """20 associations that send the films of all rounds, and a REST client, until `stop` exists."""
        self._paths.append(self.new_film(2 * number))
        port, content = service.line(NODE_PORT)[1], self.new_film(2 * number + 1).read_bytes()
        senders = [threading.Thread(target=self._associate, args=(port, i, stop)) for i in range(ASSOCIATIONS)]
        senders.append(threading.Thread(target=self._post, args=(service, content, stop)))
        for sender in senders:
            sender.start()
        return senders

    def _associate(self, port: str, index: int, stop: Path) -> None:
        films = self._paths[-1:] + self._paths[:-1][index % 5 :: 5]
        command = ["storescu", "-v", "-aet", f"WARD{index}", "-aec", "KNEEGRADE", "127.0.0.1", port, *map(str, films)]
        while not stop.exists():
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
            current = ""
            for line in (done.stdout + done.stderr).splitlines():
                if match := re.search(r"Sending file: (.*)$", line):
                    current = Path(match[1]).name
                if "Received Store Response (Success)" in line:
                    self.acknowledged.add(self._uids[current])
                    self.answers["C-STORE"] += 1
            time.sleep(PAUSE_SECONDS)

    def _post(self, service: Serving, content: bytes, stop: Path) -> None:
        while not stop.exists():
            with suppress(httpx.HTTPError), service.client() as client:
                answer = client.post("/v1/films", content=content, headers=DICOM)
                if answer.status_code in (200, 202):
                    self.keys.add(answer.json()["key"])
                    self.answers["REST"] += 1
            time.sleep(PAUSE_SECONDS)


def everyone(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children(pid) for below in everyone(child))]


def kill_everything(service: Serving) -> None:
    pids = everyone(service.process.pid)
    assert len(pids) >= 4
    for pid in pids:
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    service.close()
    until(lambda: not any(is_running(pid) for pid in pids), 60)


def again(service: Serving) -> Serving:
    """The same service, started once more."""
    fresh = object.__new__(Serving)
    fresh.__dict__.update(settings=service.settings, tokens=service.tokens, folder=service.folder)
    fresh.start()
    return fresh


class Results:
    """The bytes of all results that were ever seen in a spool.

    Attributes:
        seen: (key, file) → digests of the file.
    """

    def __init__(self) -> None:
        self.seen = defaultdict[tuple[str, str], set[str]](set)

    def look(self, spool: Path) -> None:
        """Add what is there now."""
        for path in (spool / "results").glob("*/*"):
            self.seen[path.parent.name, path.name].add(hashlib.sha256(path.read_bytes()).hexdigest())


def finished(spool: Path) -> int:
    """The number of films that are graded."""
    opened = Spool(spool, min_free_bytes=0)
    number = opened.counts()["films"]["graded"]
    opened.close()
    return number


def kill_under_load(service: Serving, load: Load, results: Results, number: int, chance: random.Random) -> None:
    """One round: load, often until another film is graded, sometimes the end of one process, and the end of all."""
    spool, stop = service.settings.spool.directory, service.folder / f"stop{number}"
    before, senders = finished(spool), load.send(service, number, stop)
    if number % 3:
        end = time.monotonic() + PROGRESS_SECONDS
        while finished(spool) == before and time.monotonic() < end:
            time.sleep(0.5)
    time.sleep(chance.uniform(0.2, 3.0))
    if number % 4 == 1:
        with suppress(ProcessLookupError):
            kill(chance.choice(everyone(service.process.pid)[1:]), signal.SIGKILL)
        time.sleep(chance.uniform(0.2, 3.0))
    results.look(spool)
    kill_everything(service)
    stop.touch()
    for sender in senders:
        sender.join()
    results.look(spool)


def objects_of(spool: Spool) -> dict[str, bytes]:
    """SOP Instance UID → bytes of each DICOM object in the results."""
    return {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path.read_bytes()
        for path in spool.directory.glob("results/*/*.dcm")
    }


@needs_orthanc
@needs_storescp
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("storescu") is None, reason="storescu is missing: apt-get install dcmtk")
def test_twenty_kills_of_everything_lose_nothing_and_every_result_arrives(tmp_path):
    load, results, chance, port = Load(tmp_path / "films"), Results(), random.Random(1), free_port()
    with running_archive(tmp_path) as archive, running_storescp(tmp_path / "pacs", port, "+uf") as received:
        service = Serving(tmp_path / "serve", SETTINGS.format(pacs=port, web=archive.url))
        try:
            for number in range(KILLS):
                kill_under_load(service, load, results, number, chance)
                service = again(service)
            spool = Spool(service.settings.spool.directory, min_free_bytes=0)
            until(lambda: all(spool.counts()["films"][state] == 0 for state in ("received", "working")), 900)
            until(lambda: spool.counts()["deliveries"]["due"] == 0, 300)
            counts, films = spool.counts(), spool.films(limit=10_000)
        finally:
            service.close()
        results.look(spool.directory)
        print(f"acknowledgements {load.answers} of {len(load.acknowledged)} + {len(load.keys)} films; {counts}")

        graded = [film for film in films if film.state == "graded"]
        assert {film.state for film in films} == {"graded"}
        assert load.acknowledged - {film.sop_instance_uid for film in graded} == set()
        assert load.keys - {film.key for film in graded} == set()
        assert len({film.sop_instance_uid or film.key for film in films}) == len(films)
        assert {name: digests for name, digests in results.seen.items() if len(digests) > 1} == {}

        sent = objects_of(spool)
        assert len(sent) == 3 * len(films)
        assert counts["deliveries"] == {"due": 0, "sent": 2 * len(sent), "dead": 0}
        copies = defaultdict[str, list[bytes]](list)
        for path in received.iterdir():
            dataset = pydicom.dcmread(path)
            copies[str(dataset.SOPInstanceUID)].append(elements(dataset))
        assert set(copies) == set(sent)
        expected = {uid: elements(pydicom.dcmread(io.BytesIO(content))) for uid, content in sent.items()}
        assert {uid for uid, several in copies.items() if set(several) != {expected[uid]}} == set()
        kept = json.loads(archive.get("/instances?expand"))
        assert sorted(one["MainDicomTags"]["SOPInstanceUID"] for one in kept) == sorted(sent)
        print(f"{sum(map(len, copies.values()))} objects arrived by C-STORE, of {len(sent)}")
    spool.close()


def elements(dataset: pydicom.Dataset) -> bytes:
    """A digest of the data set without its file meta information, which each receiver writes itself."""
    return hashlib.sha256(json.dumps(dataset.to_json_dict(), sort_keys=True).encode()).digest()
