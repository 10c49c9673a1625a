"""`kneegrade serve` as a whole: films over REST, kills of its processes, and its end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pydicom
import pytest
from served import DICOM, EXAMPLES, Serving, children, folder_with_settings, is_running, until

from kneegrade.server.spool.film_spool import Spool

sys.path.insert(0, str(Path(__file__).parents[1] / "clinical"))
from canaries import MarkedFilm

WARNINGS = os.environ.get("KNEEGRADE_TEST_WARNINGS", "error")  # of started programs; `make test-oldest`: ignore
WAIT = DICOM | {"Prefer": "wait=60"}
RESULTS = ["report.json", "report.html", "grades.csv", "fhir.json", "sr.dcm", "gsps.dcm", "sc.dcm"]


def unlike(film, number):
    """The film as other bytes, which are graded alike."""
    return film + b"\0" * (2 * number)


def test_a_film_is_graded_while_the_client_waits_and_all_results_are_there(serving, film):
    with serving.client() as client:
        answer = client.post("/v1/films", content=film, headers=WAIT)
        state = answer.json()
        assert (answer.status_code, state["state"], state["results"]) == (200, "graded", RESULTS)
        report = client.get(f"/v1/films/{state['key']}/report.json")
        knee = report.json()["radiographs"][0]["knees"][0]
        assert knee["grades"]["kl"]["grade"] in range(5)
        page = client.get(f"/v1/films/{state['key']}/report.html")
        assert "sandbox allow-scripts" in page.headers["Content-Security-Policy"]
        sr = client.get(f"/v1/films/{state['key']}/sr.dcm")
        assert sr.headers["content-type"] == "application/dicom"
        assert sr.content[128:132] == b"DICM"
        bundle = client.get(f"/v1/films/{state['key']}/fhir.json").json()
        assert bundle["resourceType"] == "Bundle"
        assert client.post("/v1/films", content=film, headers=WAIT).json() == state


def test_a_film_that_arrives_by_dicom_is_graded_too(serving):
    pynetdicom = pytest.importorskip("pynetdicom", reason='needs pip install "kneegrade[dicom]"')
    dataset = pydicom.dcmread(EXAMPLES / "single_right.dcm")
    entity = pynetdicom.AE(ae_title="WARD")
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    port = int(serving.line(r"listens on port (\d+)")[1])
    association = entity.associate("127.0.0.1", port, ae_title="KNEEGRADE")
    assert association.is_established
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    with serving.client() as client:
        (film,) = until(lambda: [one for one in client.get("/v1/films").json() if one["sender"] == "WARD"])
        until(lambda: client.get(f"/v1/films/{film['key']}").json()["results"] == RESULTS)


def test_what_is_no_film_is_dead_with_its_reason(serving):
    with serving.client() as client:
        answer = client.post("/v1/films", content=b"no film", headers=WAIT)
    assert (answer.status_code, answer.json()["state"]) == (200, "dead")
    assert answer.json()["reason"].startswith("format: ")


def test_no_canary_is_in_logs_metrics_names_or_answers(serving):
    """At log level debug, with a film that is graded and one whose header fails in many ways."""
    marked = MarkedFilm(pydicom.dcmread(EXAMPLES / "bilateral.dcm"))
    broken = bytearray(marked.content)
    broken[len(broken) // 2 :] = b""
    answers = []
    with serving.client() as client:
        for content in (marked.content, bytes(broken)):
            answers.append(client.post("/v1/films", content=content, headers=WAIT))
            body = b"--a\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--a--\r\n"
            client.post("/dicomweb/studies", content=body, headers={"Content-Type": "multipart/related; boundary=a"})
        answers += [client.get("/v1/films"), client.get("/metrics")]
        answers.append(client.get("/v1/films/" + next(iter(marked.canaries)) + "/report.json"))
        assert answers[0].json()["state"] == "graded"
        report = client.get(f"/v1/films/{answers[0].json()['key']}/report.json")
    names = "\n".join(str(path) for path in serving.folder.rglob("*")).encode()
    audit = (serving.settings.spool.directory / "audit.jsonl").read_bytes()
    shown = [answer.content for answer in answers] + [names, audit, report.content, "".join(serving.lines).encode()]
    text = {canary: where for canary, where in marked.canaries.items() if not re.fullmatch(r"[\d.]{,6}|\d{6}", canary)}
    for content in shown:
        assert {where for canary, where in text.items() if canary.encode() in content} == set()


def test_the_command_spool_shows_films_and_tries_them_again(serving, film):
    def spool(*arguments):
        command = [sys.executable, "-W", WARNINGS, "-m", "kneegrade", "spool", *arguments]
        settings = ["--config", str(serving.folder / "serve.toml")]
        return subprocess.run([*command, *settings], capture_output=True, text=True, timeout=100, check=False)

    with serving.client() as client:
        good = client.post("/v1/films", content=film, headers=WAIT).json()["key"]
        bad = client.post("/v1/films", content=b"really no film", headers=WAIT).json()["key"]
    listed = json.loads(spool("ls", "--json", "--limit", "500").stdout)
    films = {one["key"]: one for one in listed["films"]}
    assert (films[good]["state"], films[good]["sender"]) == ("graded", "all")
    assert films[bad]["reason"].startswith("format: ")
    dataset = pydicom.dcmread(EXAMPLES / "single_right.dcm", stop_before_pixels=True)
    found = spool("ls", "--patient", dataset.PatientID, "--uid", str(dataset.SOPInstanceUID)[:20]).stdout
    assert good[:12] in found
    assert bad[:12] not in found
    assert dataset.PatientID not in found
    table = spool("ls", "--state", "dead").stdout
    assert bad[:12] in table
    assert good[:12] not in table
    shown = spool("show", good[:10]).stdout
    assert good in shown
    assert "sr.dcm" in shown
    assert spool("retry", bad[:12]).stdout == "1 films and deliveries are tried again.\n"
    with serving.client() as client:
        until(lambda: client.get(f"/v1/films/{bad}").json()["state"] == "dead")
    assert spool("show", "ffff").returncode == 2
    assert spool("purge", "--older-than", "1").stdout == "0 films and their results were removed.\n"
    assert "Give one of --config" in subprocess.run(
        [sys.executable, "-m", "kneegrade", "spool", "ls"], capture_output=True, text=True, timeout=60, check=False
    ).stderr  # fmt: skip


def test_a_service_that_is_killed_is_started_again_and_a_client_only_waits(serving):
    killed = serving.pids()["rest"]
    os.kill(killed, signal.SIGKILL)
    assert httpx.get(f"{serving.url}/healthz", timeout=30).json() == {"status": "ok"}
    until(lambda: serving.pids().get("rest", killed) != killed)
    serving.line("The service rest ended with status -9")


def test_a_second_supervisor_of_the_spool_is_refused(serving):
    text = (serving.folder / "serve.toml").read_text()
    (serving.folder / "second.toml").write_text(text)
    command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(serving.folder / "second.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Another `kneegrade serve` uses this spool" in done.stderr


def test_sigterm_ends_all_processes_within_seconds_and_frees_the_films(tmp_path, film):
    service = Serving(tmp_path)
    try:
        with service.client() as client:
            keys = [client.post("/v1/films", content=unlike(film, n), headers=DICOM).json()["key"] for n in range(3)]
        pids = [pid for service_pid in service.pids().values() for pid in (service_pid, *children(service_pid))]
        assert len(pids) >= 3
        start = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - start < 10
        until(lambda: not any(is_running(pid) for pid in pids), 5)
        assert not [line for line in service.lines if "Traceback" in line or "Fatal" in line]
    finally:
        service.close()
    spool = Spool(service.settings.spool.directory, min_free_bytes=0)
    assert {spool.film(key).state for key in keys} <= {"received", "graded"}
    spool.close()


@pytest.mark.slow
def test_without_its_supervisor_no_process_stays(tmp_path):
    service = Serving(tmp_path)
    pids = until(lambda: found if len(found := list(service.pids().values())) == 2 else None)
    workers = until(lambda: [child for pid in pids for child in children(pid)])
    service.stop(signal.SIGKILL)
    until(lambda: not any(is_running(pid) for pid in [*pids, *workers]), 20)


@pytest.mark.slow
def test_a_service_that_cannot_start_ends_the_command_with_its_reason(tmp_path):
    folder_with_settings(tmp_path, "[grading]\nweights = 'no-such.safetensors'\n")
    (tmp_path / "no-such.safetensors").touch()
    command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(tmp_path / "serve.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "worker: The description of the weights, no-such.json, is missing" in done.stderr
    assert "The service `worker` could not start; the line above says why." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_an_error_before_anything_starts(tmp_path):
    folder_with_settings(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = (tmp_path / "serve.toml").read_text().replace("port = 0", f"port = {other.getsockname()[1]}")
        (tmp_path / "serve.toml").write_text(text)
        command = [sys.executable, "-m", "kneegrade", "serve", "--config", str(tmp_path / "serve.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert not (tmp_path / "spool").exists()
