"""`kneegrade batch` with the real networks over many films: kills at any moment, and memory. Slow."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from large_tables import write_large_tables
from PIL import Image

from kneegrade.batch import BatchOptions, RunSettings, read_table, run_batch
from kneegrade.imaging import read_radiograph

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc"),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "single_right.dcm"
PROGRAM = """
from kneegrade.batch import result_parts
result_parts.SECONDS_PER_PART = 1.0
from kneegrade.commands import main
main()
"""  # parts every second, so that kills leave finished films behind


def small_films(folder, number):
    """Films of one knee, 320 px, which differ in brightness."""
    folder.mkdir()
    pixels = read_radiograph(EXAMPLE).pixels
    picture = Image.fromarray(pixels).resize((420, 320), Image.Resampling.BOX)
    for i in range(number):
        shade = 235 + 20 * np.asarray(picture) * i / number
        Image.fromarray((np.asarray(picture) * shade).clip(0, 255).astype(np.uint8)).save(folder / f"film{i:03d}.png")
    return folder


def descendants(pid):
    """The processes that a process has started, and theirs, with the beginning of their command."""
    found = {}
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        found |= {child: Path(f"/proc/{child}/cmdline").read_bytes()} | descendants(child)
    return found


def is_running(pid):
    """Whether a process exists and has not ended; one that waits for its parent to look has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(process, *, everything):
    """SIGKILL for the group of the command, and for its workers too; else they end when their connection does."""
    children = list(descendants(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    for pid in children if everything else ():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(is_running, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_twenty_kills_of_everything_leave_each_film_exactly_once(tmp_path):
    folder, output, moments = small_films(tmp_path / "in", 300), tmp_path / "out", random.Random(1)
    command = [sys.executable, "-c", PROGRAM, "batch", str(folder), "-o", str(output), "--workers", "2", "-q"]
    killed = 0
    for number in range(20):
        before = len(list((output / "films").glob("[!.]*")))
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        limit = moments.uniform(0, 2)  # seconds after the first part of this run; every fourth run gets no part
        since = time.monotonic()
        while process.poll() is None:
            has_part = len(list((output / "films").glob("[!.]*"))) > before
            if (has_part or number % 4 == 3) and time.monotonic() - since > limit:
                kill(process, everything=number % 2 == 0)
                killed += 1
                break
            since = since if has_part or number % 4 == 3 else time.monotonic()
            time.sleep(0.05)
        else:
            process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    rows = {table: read_table(output, table, ["source"])["source"].to_pylist() for table in ("films", "knees", "log")}
    expected = Counter(path.name for path in folder.iterdir())
    assert Counter(rows["films"]) == Counter(rows["log"]) == Counter(rows["knees"]) == expected
    assert killed == 20


def test_memory_does_not_grow_with_the_number_of_films(tmp_path):
    """The same 200 films ten times; the slope is that of a straight line from film 400 on."""
    films = small_films(tmp_path / "films", 200)
    for i in range(10):
        (tmp_path / "in" / f"{i}").mkdir(parents=True)
        for film in films.iterdir():
            (tmp_path / "in" / f"{i}" / film.name).symlink_to(film)
    kinds = {b"kneegrade.batch.worker": "worker", b"kneegrade.imaging.decoding_worker": "decoder"}
    seen = []

    def look(progress):
        if progress.done > len(seen):
            sizes = {"engine": resident_mb(os.getpid())}
            for pid, command in descendants(os.getpid()).items():
                sizes |= {name: resident_mb(pid) for text, name in kinds.items() if text in command}
            seen.append([sizes["engine"], sizes["worker"], sizes["decoder"]])

    options = BatchOptions(settings=RunSettings(device="cpu"), pictures=0)
    progress = run_batch([str(tmp_path / "in")], tmp_path / "out", options, on_progress=look)
    assert progress.graded == 2000
    measured = np.array(seen)[400:]
    slopes = 1000 * np.polyfit(np.arange(len(measured)), measured, 1)[0]  # kB per film
    print("MB after 400 films, at the end, kB per film:", measured[0].round(1), measured[-1].round(1), slopes.round(2))
    assert slopes.max() < 8  # 16 MB in 2,000 films, after which a worker is replaced


MEASURE = """
import sys
from pathlib import Path
import kneegrade.imaging, kneegrade.reporting.html_pages
from kneegrade.batch import Shard, write_summary
from kneegrade.batch.finished_films import finished_films
if sys.argv[2] == "resume":
    found = finished_films(Path(sys.argv[1]), Shard())
else:
    write_summary(Path(sys.argv[1]), [])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_of_a_resumed_run_and_of_the_summary_grows_slowly_with_the_tables(tmp_path):
    """Greatest memory in kB per film, from 50,000 to 150,000 films with two knees each."""
    for films in (50_000, 150_000):
        (tmp_path / str(films)).mkdir()
        write_large_tables(tmp_path / str(films), films)
    slopes = {}
    for what in ("resume", "summary"):
        peaks = [
            int(subprocess.check_output([sys.executable, "-c", MEASURE, str(tmp_path / films), what]))
            for films in ("50000", "150000")
        ]
        slopes[what] = 1.024 * (peaks[1] - peaks[0]) / 100_000
    print("kB per film:", slopes)
    assert slopes["resume"] < 0.7
    assert slopes["summary"] < 0.1


def resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
