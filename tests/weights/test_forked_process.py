"""Networks in processes that were forked after the networks ran on two threads: they end, or are refused at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILM = Path(__file__).parents[2] / "examples" / "single_right.dcm"
SCRIPT = """
import multiprocessing, os, sys, threading
import torch
import kneegrade
from kneegrade.imaging.decoding_process import decoding_process

def grade():
    return grader.grade(sys.argv[1]).radiographs[0].knees[0].grades["kl"].grade

def work(_):
    return grade() == expected, decoding_process().pid

def forked(function):
    pid = os.fork()
    if pid == 0:
        print(*function(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)

def on_two_threads():
    torch.set_num_threads(2)
    try:
        grade()
    except kneegrade.KneeGradeError as error:
        return error.code, error.message

def keep_grading():
    started.set()
    while not stopped.is_set():
        wrong.extend([] if grade() == expected else ["parent"])

torch.set_num_threads(2)
grader = kneegrade.Grader(device="cpu")
expected = grade()
with multiprocessing.get_context("fork").Pool(1) as pool:
    print("pool", *pool.apply_async(work, (0,)).get(90), flush=True)
print("parent", *work(0), flush=True)
forked(on_two_threads)
started, stopped, wrong = threading.Event(), threading.Event(), []
thread = threading.Thread(target=keep_grading)
thread.start()
started.wait()
forked(lambda: ("thread", work(0)[0], torch.get_num_threads()))
stopped.set()
thread.join()
print("wrong", wrong)
"""


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    """First word → other words of the lines that `SCRIPT` prints; a process that does not end fails the tests."""
    if not hasattr(os, "fork"):
        pytest.skip("The system has no fork.")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(FILM)],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_a_worker_of_a_fork_pool_grades_like_its_parent_with_its_own_decoder(lines: dict[str, list[str]]) -> None:
    assert (lines["pool"][0], lines["parent"][0]) == ("True", "True")
    assert lines["pool"][1] != lines["parent"][1]


def test_a_process_forked_while_another_thread_grades_grades_too(lines: dict[str, list[str]]) -> None:
    assert lines["thread"] == ["True", "1"]
    assert lines["wrong"] == ["[]"]


def test_several_threads_in_a_forked_process_are_refused_at_once(lines: dict[str, list[str]]) -> None:
    message = " ".join(lines["forked_process"])
    assert message.startswith("This process was forked from one that has run networks, and torch is set to 2 threads")
    assert "Call torch.set_num_threads(1)" in message
