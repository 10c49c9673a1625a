"""Runs of `kneegrade grade`, `kneegrade batch` and the film worker of `kneegrade serve` whose decoders get signals.

Times are processor seconds of the whole tree of processes, so that a busy computer changes none: the tree and the clock
are looked at together, again and again, and a moment on the clock becomes one of processor time.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom

EXAMPLES = Path(__file__).parents[2] / "examples"
SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSTOP)
LOOK_SECONDS = 0.1
STARTUP = ("-m", "kneegrade")


def decoders_of(pid: int) -> list[int]:
    """The decoding processes below a process."""
    found = []
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "decoding_worker" in " ".join(child.cmdline()):
                    found.append(child.pid)
    return found


def tree_seconds(pid: int) -> float:
    """Processor time of a process and of its descendants, those that have ended included."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total


@dataclass
class Run:
    """What happened in a run.

    Attributes:
        clock: moments of the looks, in seconds.
        processor: processor seconds of the tree at these moments.
        signals: moment and number of each signal.
        answers: moments of the films that were graded, in their order.
        outcomes: reason of each film by name; "graded" for most.
        results: what was found on each graded film, as text.
        exit_code: of the command.
        errors: standard error.
    """

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    signals: list[tuple[float, signal.Signals]] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    exit_code: int = -1
    errors: str = ""

    @property
    def lost(self) -> int:
        """Number of films without grades."""
        return sum(outcome != "graded" for outcome in self.outcomes.values())

    def processor_at(self, moment: float) -> float:
        """Processor seconds of the tree at a moment."""
        return float(np.interp(moment, self.clock, self.processor))

    def undisturbed(self) -> float:
        """Processor seconds of a film without signals (median)."""
        spans = [
            self.processor_at(after) - self.processor_at(before)
            for before, after in zip(self.answers, self.answers[1:], strict=False)
            if not any(before < moment < after for moment, _ in self.signals)
        ]
        return float(np.median(spans)) if spans else float("nan")

    def until_answer(self) -> list[tuple[float, float]]:
        """Processor seconds, and seconds on the clock, from each signal to the next graded film.

        Only the last of several signals before a film counts.
        """
        found = {}
        for moment, _ in self.signals:
            after = min((answer for answer in self.answers if answer > moment), default=None)
            if after is not None:
                found[after] = (self.processor_at(after) - self.processor_at(moment), after - moment)
        return list(found.values())


def send_signals(run: Run, pid: int, kills: int, dice: random.Random, count: Callable[[], int] | None) -> None:
    """Look at the tree and send signals to its decoders, at random moments, until the process ends.

    Args:
        run: that is described.
        pid: of the command.
        kills: greatest number of signals.
        dice: chooses moments and signals.
        count: number of films graded so far, for commands whose results do not tell when.
    """
    due, graded = 0.0, 0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        run.clock.append(time.time())
        run.processor.append(tree_seconds(pid))
        decoders = decoders_of(pid)
        if decoders and not due:
            due = run.processor[-1] + dice.random()
        if decoders and len(run.signals) < kills and run.processor[-1] >= due:
            kind = dice.choice(SIGNALS)
            with suppress(ProcessLookupError):
                os.kill(dice.choice(decoders), kind)
                run.signals.append((time.time(), kind))
            due = run.processor[-1] + 0.2 + 1.2 * dice.random()
        if count is not None and (now := count()) > graded:
            run.answers += (now - graded) * [time.time()]
            graded = now
        time.sleep(LOOK_SECONDS)
    run.processor = list(np.maximum.accumulate(run.processor))


def films_in(folder: Path, number: int) -> list[str]:
    """Names of so many copies of one film, which differ in their UIDs only."""
    folder.mkdir(parents=True)
    film = pydicom.dcmread(EXAMPLES / "single_right.dcm")
    film.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    for index in range(number):
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"2.25.{10**30 + index}"
        film.save_as(folder / f"{index:03}.dcm")
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def started(command: Sequence[str], stdin: str | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A command; it is ended with the block."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdin is not None
    if stdin is not None:
        process.stdin.write(stdin)
        process.stdin.flush()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run_grade(folder: Path, films: int, kills: int, seed: int, start: Sequence[str] = STARTUP) -> Run:
    """`kneegrade grade` on so many films."""
    films_in(folder / "in", films)
    run, output = Run(), folder / "out"
    journal = output / "films.partial.jsonl"

    def graded() -> int:
        with suppress(OSError, ValueError):
            return sum(json.loads(line)["status"] == "graded" for line in journal.read_text().splitlines())
        return 0

    command = [sys.executable, *start, "grade", str(folder / "in"), "-o", str(output), "-q", "--format", "json"]
    with started(command) as process:
        send_signals(run, process.pid, kills, random.Random(seed), graded)
        run.exit_code, run.errors = process.wait(60), _read(process)
    for film in json.loads((output / "report.json").read_text())["radiographs"]:
        run.outcomes[film["source"]] = "graded" if film["knees"] else film["reason"]["code"]
        run.results |= {_same_of(film)} if film["knees"] else set()
    run.answers += [run.clock[-1]] * (films - run.lost - len(run.answers))  # after the last look
    return run


def run_batch(folder: Path, films: int, kills: int, seed: int, start: Sequence[str] = STARTUP) -> Run:
    """`kneegrade batch` on so many films, with one worker."""
    import pyarrow.parquet as pq

    films_in(folder / "in", films)
    run, output = Run(), folder / "out"
    command = [sys.executable, *start, "batch", str(folder / "in"), "-o", str(output), "-q", "--workers", "1"]
    with started(command) as process:
        send_signals(run, process.pid, kills, random.Random(seed), None)
        run.exit_code, run.errors = process.wait(60), _read(process)
    rows = pq.read_table(output / "films").to_pylist()
    run.outcomes = {row["source"]: "graded" if row["status"] == "graded" else row["reason_code"] for row in rows}
    log = pq.read_table(output / "log").to_pylist()
    run.answers = sorted(row["finished"].timestamp() for row in log if run.outcomes[row["source"]] == "graded")
    knees = pq.read_table(output / "knees").to_pylist()
    run.results = {
        repr({name: value for name, value in knee.items() if name not in ("source", "sha256")}) for knee in knees
    }
    return run


def run_serve(folder: Path, films: int, kills: int, seed: int) -> Run:
    """The film worker of `kneegrade serve`, as its supervisor starts it, on so many films in the spool."""
    from kneegrade.server.service_process import PACKAGE_ROOT, PROGRAM
    from kneegrade.server.settings import GradingSettings, RestSettings, ServeSettings, SpoolSettings
    from kneegrade.server.spool.film_spool import Spool

    settings = ServeSettings(
        spool=SpoolSettings(directory=folder / "spool"), grading=GradingSettings(workers=1),
        rest=RestSettings(tokens=folder / "tokens"),
    )  # fmt: skip
    spool, run, keys, ended = Spool(folder / "spool", min_free_bytes=0), Run(), [], threading.Event()
    for name in films_in(folder / "in", films):
        stream, path = spool.temporary_file()
        with stream:
            stream.write((folder / "in" / name).read_bytes())
        keys.append(spool.accept(path, kind="dicom", sop_instance_uid=None, sender="test").key)

    def done() -> int:
        states = [one.state for one in spool.films(limit=1000)]
        if not ended.is_set() and not {"received", "working"} & {*states}:
            process.terminate()  # once: a second signal would end the interpreter while it ends
            ended.set()
        return 0

    command = [sys.executable, "-P", "-c", PROGRAM, str(PACKAGE_ROOT), "worker", "-"]
    with started(command, settings.model_dump_json() + "\n") as process:
        send_signals(run, process.pid, kills, random.Random(seed), done)
        run.exit_code, run.errors = process.wait(60), _read(process)
    for row in map(spool.film, keys):
        assert row is not None
        run.outcomes[row.key] = row.state
        if row.state == "graded":
            assert row.finished is not None
            run.answers.append(row.finished)
            report = json.loads((spool.results(row.key) / "report.json").read_text())
            run.results.add(_same_of(report["radiographs"][0]))
    run.answers.sort()
    spool.close()
    return run


def _same_of(film: dict[str, Any]) -> str:
    """What must be the same in all copies of a film."""
    return json.dumps(film["knees"], sort_keys=True)


def _read(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.read()


COMMANDS: dict[str, Callable[..., Run]] = {"grade": run_grade, "batch": run_batch, "serve": run_serve}
