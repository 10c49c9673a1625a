"""Promise 7: no identity leaks. Marks in 36 places of each header appear in no log, message, name, page or table."""

import contextlib
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from attack_tools import is_full, say, tries
from every_command import all_verbs, verb
from identity_marks import FAULTS, KINDS, NAME_MARK, PLAIN, contents, film_of, leaks, marks, picture_of
from marked_commands import (
    FULL_STEPS,
    INPUTS,
    QUICK_STEPS,
    Step,
    marked_environment,
    prepare_marked,
    prepare_more,
    run_steps,
)  # fmt: skip

sys.path.append(str(Path(__file__).parents[1] / "server"))  # `served`

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
httpx = pytest.importorskip("httpx", reason='httpx is missing: pip install "kneegrade[dev]"')
pytest.importorskip("fastapi", reason='FastAPI is missing: pip install "kneegrade[serve]"')

NAMED = re.compile(  # where the name of a film may stand: it is the source in results, and names derived files
    r"output|name in (graded|batch|batch-table|marked|full-\w+)|dataset-damaged/left_out\.txt"
    r"|[^:]+ column (source|(input_)?(image_)?path|knee_id|subject_id|film)"
    r"|((full-)?(grade|batch)d?|batch-table)/[^:]+|(audit|audit-knees|agreement)/[^:]+|marked/landmarks\.(csv|json)"
)
PARTS = ("reading", "pixels", "evidence", "reviews")  # of a film, on the reader's page
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff", ".dcm": "application/dicom"}
full_only = pytest.mark.skipif(not is_full(), reason="minutes long: set KNEEGRADE_ATTACK=1")


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A folder in which every command has read marked films, and what they said."""
    folder = tmp_path_factory.mktemp("marked")
    number = tries(200, len(KINDS) + 1)
    (prepare_more if is_full() else prepare_marked)(folder, number)
    return folder, number, *run_steps((*QUICK_STEPS, *FULL_STEPS) if is_full() else QUICK_STEPS, folder)


def test_every_command_reads_marked_films():
    ours = {verb(step.line) for step in (*QUICK_STEPS, *FULL_STEPS)}
    assert all_verbs() - ours == {"cohort fake-oai", "cohort fake-most"}  # they read no film


def test_no_mark_leaves_the_headers(marked):
    folder, number, codes, said, problems = marked
    found = leaks([("output and logs", said.encode()), *contents(folder, INPUTS)])
    say(7, f"{len(marks()) + len(FAULTS)} marks in {number} films, {len(codes)} command lines: {len(found)} found")
    assert found == []
    assert problems == ""


def test_the_name_of_a_film_is_only_where_its_results_are(marked):
    folder, _, _, said, _ = marked
    logs = [("log", path.read_bytes()) for path in (folder / "program" / "logs").iterdir()]
    named = leaks([("output", said.encode()), *logs, *contents(folder, INPUTS)], NAME_MARK)
    assert named, "the names are marked"
    assert [text for text in named if not NAMED.match(text)] == []


@full_only
def test_no_mark_is_on_the_readers_page(marked):
    """The page of `kneegrade viewer`, what it asks for, and what it writes at its end."""
    folder = marked[0]
    with (folder / "page.log").open("w") as errors, subprocess.Popen(
        [sys.executable, "-u", "-m", "kneegrade", "viewer", "graded", "--reader", "anna"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=errors, env=marked_environment(folder),
    ) as process:  # fmt: skip
        try:
            address, token = next(
                found.groups()
                for line in process.stdout
                if (found := re.search(r"(http://[^/\s]+)\S*#token=(\S+)", line))
            )
            with httpx.Client(base_url=address, timeout=100) as client:
                session = client.post("/v1/session", json={"token": token}).json()["token"]
                client.headers["Authorization"] = f"Bearer {session}"
                answers = [
                    client.get(path) for path in ("/viewer/", "/v1/worklist", "/v1/shape", "/v1/films/0/reading")
                ]
                films = answers[1].json()["films"]
                for film in films[:20]:
                    answers += [client.get(f"/v1/films/{film['key']}/{part}") for part in PARTS]
        finally:
            process.send_signal(signal.SIGTERM)
            printed = process.stdout.read()
    shown = [(answer.url.path, answer.content) for answer in answers]
    found = leaks([*shown, ("printed", printed.encode()), *contents(folder, INPUTS)])
    say(7, f"{len(answers)} answers to the reader's page about {len(films)} films: {len(found)} found")
    assert found == []
    assert len(films) > 60
    assert process.returncode in (0, 128 + signal.SIGTERM)


@full_only
def test_no_mark_leaves_the_service(marked, tmp_path):
    """`kneegrade serve` at debug level, and `kneegrade spool` on what it received."""
    from served import Serving, until

    films, service = sorted((marked[0] / "films").iterdir()), Serving(tmp_path / "service", "[node]\nport = 0\n")
    with contextlib.closing(service), service.client() as client:
        answers = [
            client.post("/v1/films", content=film.read_bytes(), headers={"Content-Type": MEDIA[film.suffix]})
            for film in films
        ]
        keys = {answer.json()["key"] for answer in answers if answer.status_code < 300}

        def are_done() -> bool:
            time.sleep(1)
            listed = client.get("/v1/films", params={"limit": 500}).json()
            return {film["key"] for film in listed if film["state"] in ("graded", "dead")} == keys

        until(are_done, 3000)
        answers += [client.get(path) for path in ("/v1/films", "/metrics", f"/v1/films/{keys.copy().pop()}")]
        for key in keys:
            answers += [client.get(f"/v1/films/{key}/{name}") for name in ("report.json", "report.html", "grades.csv")]
        spool = f"--spool {service.settings.spool.directory}"
        words = ["ls --json --limit 500", *(f"show {key}" for key in list(keys)[:20]), "retry --all"]
        steps = [Step(f"spool {line} {spool}", (0, 2)) for line in (*words, "purge --older-than 0")]
        _, said, problems = run_steps(tuple(steps), tmp_path)
    shown = [(answer.url.path, answer.content) for answer in answers]
    shown += [(f"name in {path.parent.name}", path.name.encode()) for path in service.folder.rglob("*")]
    shown += [(path.name, path.read_bytes()) for path in service.settings.spool.directory.glob("audit*")]
    found = leaks([*shown, ("log", "".join(service.lines).encode()), ("spool", said.encode())])
    say(7, f"{len(answers)} answers of the service about {len(keys)} films, and its log: {len(found)} found")
    assert found == []
    assert problems == ""
    assert len(keys) > 150


def test_planted_leaks_are_seen(tmp_path, caplog):
    """A mark in a log, in a page, in a name, in columns of a table, in a picture's texts, in a shared film."""
    pixels = np.zeros((8, 8), np.uint16)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("kneegrade").debug(
            "read %s", pydicom.dcmread(pydicom.filebase.DicomBytesIO(film_of(pixels))).PatientName
        )
    (tmp_path / "shared" / "films").mkdir(parents=True)
    (tmp_path / "shared" / "films" / "one.dcm").write_bytes(film_of(pixels))
    (tmp_path / f"{marks()[0]}.html").write_text("")
    (tmp_path / "page.html").write_text(f"<p>{marks()[1].lower()}", encoding="utf-16")
    (tmp_path / "overlay.png").write_bytes(picture_of(pixels, ".png"))
    pd.DataFrame({"source": [""], "note": [[{"reason": marks()[2]}]]}).to_parquet(tmp_path / "films.parquet")
    seen = {text.split(": ")[0] for text in leaks([("log", caplog.text.encode()), *contents(tmp_path, ())])}
    assert seen == {"log", "shared/films/one.dcm", f"name in {marks()[0]}.html", "page.html", "overlay.png",
                    "overlay.png texts", "films.parquet column note"}  # fmt: skip


@full_only
def test_a_planted_mark_in_tensorboard_is_seen(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(file_version=marks()[0]))
    writer.close()
    assert leaks(contents(tmp_path, ()))


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_every_film_is_full_of_marks(kind):
    pixels = np.zeros((64, 64), np.uint16)
    data = picture_of(pixels, kind) if kind in PLAIN else film_of(pixels, kind)
    assert len({mark for mark in marks() if mark.encode() in data}) >= (6 if kind in (*PLAIN, "empty") else 36)
