"""`kneegrade viewer` as a process: killed while a reader corrects, and its end by Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="FastAPI is missing; pip install 'kneegrade[serve]'")
pytest.importorskip("playwright", reason="playwright is missing; pip install 'kneegrade[dev]'")

from browser_pages import chromium

from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.review_log import ReviewLog, Stream

CORRECTIONS = 200
KILLS = 5


@contextmanager
def viewer(folder, port=0):
    """A running viewer and its link."""
    command = [sys.executable, "-u", "-m", "kneegrade", "viewer", str(folder), "--reader", "anna", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield process, found[0]
                break
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait(20)


def note_saved(page, shown: dict[int, list[int]]) -> None:
    """Add what the page shows as saved: revision → KL of both knees."""
    revision, kl = page.evaluate(
        "[document.querySelector('#saved').dataset.revision, kneegrade.film.saved.knees.map((knee) => knee.grades.kl)]"
    )
    if revision:
        shown[int(revision)] = kl


@pytest.mark.slow
def test_every_correction_shown_as_saved_survives_a_kill(folder):
    key = FolderStore(folder).worklist()[0].key
    shown, done = dict[int, list[int]](), 0
    with chromium() as browser:
        for kill in range(KILLS + 1):
            with viewer(folder) as (process, link):
                page = browser.new_page()
                page.goto(link)
                page.wait_for_selector("body[data-opened]")
                page.select_option("#sort", "order")
                page.locator(".row").first.click()
                page.wait_for_function("() => kneegrade.film?.name === 'film-01.png'")
                stop = CORRECTIONS if kill == KILLS else (kill + 1) * CORRECTIONS // (KILLS + 1)
                while done < stop:
                    page.evaluate(f"kneegrade.page.select({done % 2}, 'kl')")
                    page.keyboard.press(str((done // 2 + 1) % 5))
                    done += 1
                    if done < stop:  # the last one before a kill is under way
                        page.wait_for_selector("#saved:is(.is-saved, .is-untouched)", state="attached")
                    note_saved(page, shown)
                process.send_signal(signal.SIGKILL)
                process.wait(20)
                note_saved(page, shown)
                page.close()
    history = {review.revision: review.reading for review in ReviewLog(folder / "reviews.jsonl").history(Stream(key))}
    assert len(shown) > CORRECTIONS / 2
    for revision, kl in shown.items():
        assert [knee["grades"]["kl"] for knee in history[revision]["knees"]] == kl


@pytest.mark.slow
def test_the_page_saves_what_it_could_not_when_the_server_is_back(folder):
    with chromium() as browser, viewer(folder) as (process, link):
        port = re.search(r":(\d+)/", link)[1]
        page = browser.new_page()
        page.goto(link)
        page.wait_for_selector("body[data-opened]")
        process.kill()
        process.wait(20)
        page.keyboard.press("4")
        page.get_by_text("Not saved: the server does not answer").wait_for()
        with viewer(folder, port) as (_, fresh):
            page.get_by_label("Token or link").fill(fresh)
            page.keyboard.press("Enter")
            page.wait_for_selector("#saved.is-saved")
    newest = list(ReviewLog(folder / "reviews.jsonl").streams().values())
    assert newest[0].reading["knees"][0]["grades"]["kl"] == 4


@pytest.mark.slow
def test_ctrl_c_ends_the_page_and_writes_the_labels(folder):
    import httpx

    with viewer(folder) as (process, link):
        base, _, token = link.partition("/viewer/#token=")
        session = httpx.post(f"{base}/v1/session", json={"token": token}).json()["token"]
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {session}"}) as client:
            key = client.get("/v1/worklist").json()["films"][0]["key"]
            reading = client.get(f"/v1/films/{key}/reading").json()["reading"] | {"status": "read"}
            answer = client.post(f"/v1/films/{key}/reviews", json={"based_on": 0, "reading": reading})
            assert answer.status_code == 201
        os.kill(process.pid, signal.SIGINT)
        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.returncode == 0
        assert "Wrote labels.csv" in process.stdout.read()
    assert (folder / "labels.parquet").is_file()


def test_a_folder_in_which_the_port_cannot_be_kept_is_shown(folder):
    import httpx

    (folder / "viewer.json").mkdir()  # cannot be replaced by a file, not even by root
    with viewer(folder) as (process, link):
        assert httpx.get(link.partition("#")[0]).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
