"""Promise 11: Ctrl-C at any moment ends a command with a sentence, without a traceback and without leftovers.

The signal comes at the k-th event of the interpreter (import, open, compile, start of a process, …), counted from the
import of the command line, and goes to all processes of the group, as that of a terminal does. So a moment can be
repeated. Before, while Python itself starts, Ctrl-C shows Python's own traceback.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "single_right.dcm"
HOOK = """
import os, signal, sys
main, count, moment = os.getpid(), 0, int(os.environ["KNEEGRADE_MOMENT"])
def hook(event, args):
    global count
    if os.getpid() != main or (not count and not (event == "import" and args[0] == "kneegrade.commands")):
        return
    count += 1
    if count == moment:
        os.killpg(0, signal.SIGINT)
if "KNEEGRADE_MOMENT_SET" not in os.environ:
    os.environ["KNEEGRADE_MOMENT_SET"] = "1"  # the children have their own events
    sys.addaudithook(hook)
    import atexit
    atexit.register(lambda: open(os.environ["KNEEGRADE_EVENTS"], "w").write(str(count)))
"""
COMMANDS = {
    "grade": ("grade", EXAMPLE, "-q"),
    "batch": ("batch", EXAMPLE, "-q", "--workers", "1"),
    "landmarks": ("landmarks", EXAMPLE, "-q"),
    "phantom": ("phantom", "-n", "2", "--longest-px", "300", "-q"),
}


def interrupted_at(moment, arguments, folder, program=("-m", "kneegrade")):
    """Exit code, errors, and whether a process is left of the command, interrupted at an event (0: never)."""
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")]), "KNEEGRADE_MOMENT": str(moment),
        "KNEEGRADE_EVENTS": str(folder / "events"),
    }  # fmt: skip
    output = ("-o", folder / "out") if arguments else ()
    with subprocess.Popen(
        [sys.executable, *program, *map(str, (*arguments, *output))], env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        _, errors = process.communicate(timeout=300)
    return process.returncode, errors, lives_on(process.pid)


def lives_on(group, seconds=5.0):
    """Whether a process of the group is still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def problems(moment, arguments, folder):
    """What is wrong after Ctrl-C at this event.

    The signal itself ends `python -m` where it came within an `exec` of text, as of a dataclass, although it was
    handled: CPython remembers it. A shell shows 130 for that too.
    """
    code, errors, is_alive = interrupted_at(moment, arguments, folder)
    left = [path.name for path in (folder / "out").rglob("*.tmp")] if (folder / "out").is_dir() else []
    found = []
    if code not in (0, 130, -signal.SIGINT):  # 0: it had finished
        found.append(f"exit code {code}")
    if code and not errors.startswith("kneegrade: "):
        found.append(f"no sentence: {errors}")
    if "Traceback" in errors or "Exception ignored" in errors:
        found.append(errors)
    if is_alive:
        found.append("a process lives on")
    return [*found, *left]


@pytest.mark.parametrize("moment", [2, 60, 400, 1500])
def test_ctrl_c_while_the_program_starts(moment, tmp_path):
    assert problems(moment, COMMANDS["grade"], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_ctrl_c_at_random_moments(verb, tmp_path):
    (tmp_path / "whole").mkdir()
    code, errors, _ = interrupted_at(0, COMMANDS[verb], tmp_path / "whole")
    assert code == 0, errors
    number = int((tmp_path / "whole" / "events").read_text())
    assert number > 1000
    generator = random.Random(24)
    for index in range(25):
        folder = tmp_path / str(index)
        folder.mkdir()
        moment = generator.randint(1, number)
        assert problems(moment, COMMANDS[verb], folder) == [], f"event {moment} of {number}"


def test_a_planted_traceback_is_seen(tmp_path):
    """A program without the handling of `kneegrade.__main__` shows a traceback at such a moment."""
    code, errors, _ = interrupted_at(60, (), tmp_path, program=("-c", "import kneegrade.commands"))
    assert code != 130
    assert "KeyboardInterrupt" in errors
