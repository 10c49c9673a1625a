"""Promise 3: the death of the decoding process costs at most the film that it decodes."""

import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from attack_tools import SEED, say, tries
from bombs import cpu_seconds

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import Limits
from kneegrade.imaging.decoding_process import DecodingProcess

pytest.importorskip("psutil", reason="finds the decoding process of another process")
if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)

from signalled_runs import COMMANDS, EXAMPLES, SIGNALS, Run, decoders_of, run_grade

FILM = (EXAMPLES / "bilateral.dcm").read_bytes()
NEXT_SECONDS = 2.0  # of processor time, more than undisturbed, until the next answer
LOSSES = {"decoder_died", "decoder_start"}
IN_CI = "grade"


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


def deaths(count: int, process: DecodingProcess) -> tuple[Counter[str], list[str], list[float]]:
    """What became of each film whose decoder got a signal, the faults, and the seconds until the next film is read."""
    dice, outcomes = random.Random(SEED), Counter[str]()
    faults, seconds = [], []
    for number in range(count):
        if dice.random() < 0.3:  # also while the process starts
            process.close()
        kind, after = dice.choice(SIGNALS), dice.random() * dice.choice([0.05, 0.3, 0.8])
        thread = threading.Thread(target=hit, args=(os.getpid(), kind, after))
        thread.start()
        try:
            pixels = process.decode(FILM, Limits()).pixels
            outcome = "read" if pixels.shape == (1179, 1700) else "wrong image"
        except KneeGradeError as error:
            outcome = error.code
        except Exception as error:
            outcome = type(error).__name__
        thread.join()
        outcomes[outcome] += 1
        if outcome not in {"read", *LOSSES}:
            faults.append(f"{number} {kind.name} after {after:.2f} s: {outcome}")
        try:
            seconds.append(next_film(process))
        except KneeGradeError as error:
            faults.append(f"{number} {kind.name} after {after:.2f} s, the next film: {error.code}")
    return outcomes, faults, seconds


def next_film(process: DecodingProcess) -> float:
    """Processor seconds until the next film is read, those of the decoding process included."""
    start = cpu_seconds(process.pid)
    process.decode(FILM, Limits())
    return cpu_seconds(process.pid) - start


def test_a_death_of_the_decoder_costs_one_film() -> None:
    count, process = tries(100, 4), DecodingProcess()
    try:
        outcomes, faults, seconds = deaths(count, process)
    finally:
        process.close()
    median, longest = sorted(seconds)[len(seconds) // 2], max(seconds)
    say(3, f"{count} signals to the decoding process: {dict(outcomes)}; the next film is read after {median:.2f} s of "
        f"processor time (median), at most {longest:.2f} s; {len(faults)} faults {faults}")  # fmt: skip
    assert faults == []
    assert longest < NEXT_SECONDS


def test_a_process_that_does_not_start_again_would_be_seen() -> None:
    class Faulty(DecodingProcess):
        def _request(self, *arguments):
            if self._process is not None and self.pid is None:
                raise RuntimeError("dead")
            return super()._request(*arguments)

    process = Faulty()
    try:
        process.decode(FILM, Limits())
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        with pytest.raises(RuntimeError):
            next_film(process)
    finally:
        process.close()


def faults_of(run: Run, films: int) -> list[str]:
    """What is wrong in a run with signals: more films lost than signals sent, other results, a late next film."""
    faults = []
    if len(run.outcomes) != films:
        faults.append(f"{len(run.outcomes)} of {films} films have a result")
    if run.lost > len(run.signals):
        faults.append(f"{run.lost} films lost by {len(run.signals)} signals")
    if other := {*run.outcomes.values()} - {"graded", *LOSSES}:
        faults.append(f"films with the reasons {other}")
    if len(run.results) != 1:
        faults.append(f"{len(run.results)} results of one film")
    if "Traceback" in run.errors:
        faults.append(run.errors[-500:])
    late = [seconds for seconds, _ in run.until_answer() if seconds > NEXT_SECONDS + run.undisturbed()]
    if late:
        faults.append(f"the next film after {late} s, without signals {run.undisturbed():.1f} s")
    return faults


@pytest.mark.parametrize(
    "command", ["grade", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "grade")]
)
def test_signals_cost_a_command_at_most_one_film_each(command: str, tmp_path: Path) -> None:
    kills = tries(34, 2)
    films = 4 * kills + 3  # some are read between two signals
    run = COMMANDS[command](tmp_path, films, kills, SEED)
    faults, answers = faults_of(run, films), run.until_answer()
    assert answers
    processor, clock = (sorted(values) for values in zip(*answers, strict=True))
    kinds = Counter(kind.name for _, kind in run.signals)
    median, longest = processor[len(processor) // 2], processor[-1]
    say(3, f"`kneegrade {command}`, {films} films, signals {dict(kinds)}: {run.lost} films lost; until the next graded "
        f"film {median:.2f} s of processor time (median), at most {longest:.2f} s, and {run.undisturbed():.2f} s for a "
        f"film without signals; at most {clock[-1]:.1f} s on the clock; {len(faults)} faults {faults}")  # fmt: skip
    assert faults == []
    assert run.exit_code == (1 if run.lost and command != "serve" else 0)
    assert len(run.signals) == kills


PLANTED = """
from kneegrade.errors import UnreadableFileError
from kneegrade.imaging.decoding_process import DecodingProcess
from kneegrade.__main__ import run
original = DecodingProcess._running_process
def without_restart(self, limits):
    if self._process is None and hasattr(self, "started"):
        raise UnreadableFileError("No decoder.", code="decoder_died")
    self.started = True
    return original(self, limits)
DecodingProcess._running_process = without_restart
run()
"""


@pytest.mark.slow
def test_a_command_that_loses_all_following_films_would_be_seen(tmp_path: Path) -> None:
    run = run_grade(tmp_path, 5, 1, SEED, ("-c", PLANTED))
    assert any("films lost" in fault for fault in faults_of(run, 5))
