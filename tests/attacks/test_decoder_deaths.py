"""Promise 3: the death of the decoding process costs at most the film that it decodes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from attack_tools import SEED, say, tries

from kneegrade.errors import KneeGradeError, LimitExceededError
from kneegrade.imaging import Limits, decoding_process
from kneegrade.imaging.decoding_process import DecodingProcess

psutil = pytest.importorskip("psutil", reason="finds the decoding process of another process")
if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)

EXAMPLES = Path(__file__).parents[2] / "examples"
FILM = (EXAMPLES / "bilateral.dcm").read_bytes()
SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSTOP)
LIMITS = Limits(child_seconds=3)


def decoders_of(pid: int) -> list[int]:
    """The decoding processes below a process."""
    found = []
    try:
        for child in psutil.Process(pid).children(recursive=True):
            if "decoding_worker" in " ".join(child.cmdline()):
                found.append(child.pid)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    return found


def hit(pid: int, number: int, after: float) -> bool:
    """Whether a decoding process below `pid` got the signal, after a time."""
    time.sleep(after)
    for decoder in decoders_of(pid):
        try:
            os.kill(decoder, number)
        except ProcessLookupError:
            continue
        return True
    return False


def deaths(count: int, process: DecodingProcess) -> tuple[dict[str, int], list[str], list[float]]:
    """What became of each film whose decoder got a signal, the faults, and the seconds until the next film is read."""
    dice = random.Random(SEED)
    outcomes: dict[str, int] = {}
    faults, seconds = [], []
    for number in range(count):
        if dice.random() < 0.3:  # also while the process starts
            process.close()
        kind, after = dice.choice(SIGNALS), dice.random() * dice.choice([0.05, 0.3, 0.8])
        thread = threading.Thread(target=hit, args=(os.getpid(), kind, after))
        thread.start()
        try:
            pixels = process.decode(FILM, LIMITS).pixels
            outcome = "read" if pixels.shape == (1179, 1700) else "wrong image"
        except KneeGradeError as error:
            outcome = error.code
        except Exception as error:
            outcome = type(error).__name__
        thread.join()
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome not in ("read", "decoder_died", "time"):
            faults.append(f"{number} {kind.name} after {after:.2f} s: {outcome}")
        try:
            seconds.append(next_film(process))
        except KneeGradeError as error:
            faults.append(f"{number} {kind.name} after {after:.2f} s, the next film: {error.code}")
    return outcomes, faults, seconds


def next_film(process: DecodingProcess) -> float:
    """Seconds until the next film is read; a signal that came after the last answer costs this film instead."""
    start = time.monotonic()
    try:
        process.decode(FILM, LIMITS)
    except LimitExceededError:
        start = time.monotonic()
        process.decode(FILM, LIMITS)
    return time.monotonic() - start


def test_a_death_of_the_decoder_costs_one_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_process, "START_SECONDS", 12.0)
    count, process = tries(100, 4), DecodingProcess()
    try:
        outcomes, faults, seconds = deaths(count, process)
    finally:
        process.close()
    median, longest = sorted(seconds)[len(seconds) // 2], max(seconds)
    say(3, f"{count} signals to the decoding process: {outcomes}; the next film is read after {median:.2f} s (median), "
        f"at most {longest:.2f} s; {len(faults)} faults")  # fmt: skip
    assert faults == []
    assert median < 2
    assert outcomes.get("read", 0) < count or count < 20


def test_a_process_that_does_not_start_again_would_be_seen() -> None:
    class Faulty(DecodingProcess):
        def _request(self, *arguments):
            if self._process is not None and self.pid is None:
                raise RuntimeError("dead")
            return super()._request(*arguments)

    process = Faulty()
    try:
        process.decode(FILM, LIMITS)
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        with pytest.raises(RuntimeError):
            next_film(process)
    finally:
        process.close()


def run_with_signals(command: list[str], seed: int, kills: int) -> tuple[subprocess.CompletedProcess[str], int]:
    """A command whose decoders get up to `kills` signals SIGKILL or SIGABRT."""
    dice, sent = random.Random(seed), 0
    started = subprocess.Popen(
        [sys.executable, "-m", "kneegrade", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and sent < kills:
        if decoders_of(started.pid):
            sent += hit(started.pid, dice.choice(SIGNALS[:2]), dice.random() * 1.5)
        else:
            time.sleep(0.02)
    out, error = started.communicate(timeout=300)
    return subprocess.CompletedProcess(command, started.returncode, out, error), sent


@pytest.mark.slow
@pytest.mark.parametrize("command", ["grade", "batch"])
def test_signals_cost_a_command_at_most_one_film_each(command: str, tmp_path: Path) -> None:
    films, kills = 12, 6
    (tmp_path / "in").mkdir()
    for number in range(films):
        shutil.copy(EXAMPLES / "bilateral.dcm", tmp_path / "in" / f"{number:02}.dcm")
    total = lost_in_all = 0
    for run in range(tries(4, 1)):
        output = tmp_path / f"out{run}"
        done, sent = run_with_signals([command, str(tmp_path / "in"), "-o", str(output), "-q"], SEED + run, kills)
        lost = lost_films(command, output)
        assert sum(lost.values()) == films
        assert lost.keys() <= {"graded", "decoder_died", "decoder_start"}
        missing = films - lost["graded"]
        assert missing <= sent
        assert done.returncode == (1 if missing else 0)
        assert "Traceback" not in done.stderr
        total, lost_in_all = total + sent, lost_in_all + missing
    say(3, f"{total} signals during `kneegrade {command}`: {lost_in_all} films lost")


def lost_films(command: str, output: Path) -> dict[str, int]:
    """Number of films that were graded, and of the others by their reason."""
    if command == "grade":
        films = json.loads((output / "report.json").read_text())["radiographs"]
        codes = [film["status"] if film["knees"] else film["reason"]["code"] for film in films]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(output / "films").to_pylist()
        codes = [row["status"] if row["status"] == "graded" else row["reason_code"] for row in rows]
    return {code: codes.count(code) for code in codes}
