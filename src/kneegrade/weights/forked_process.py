"""Networks in a process that `os.fork` made from one that has run them.

`os.fork` copies only the thread that calls it. OpenMP (libgomp) keeps its other threads in a pool, which in the child
lists threads that do not exist: a computation on two threads would wait for them for ever. A computation on one thread
needs no pool. So a forked child computes on one thread, as the workers of PyTorch's `DataLoader` do, and
`check_process` refuses what would wait.

CUDA cannot be used at all in a child of a process that has used it.
"""

import os
import threading

import torch

from kneegrade.errors import UsageError

_has_run = False  # networks ran in this process
_parent_has_run = False  # networks ran in a process from which this one was forked


def check_process(device: str) -> None:
    """Refuse to run networks where they would never end; called before networks run.

    Args:
        device: "cpu" or "cuda".

    Raises:
        UsageError: this process was forked from one that has run networks, and its main thread would use several
            threads, or CUDA.
    """
    global _has_run
    if device == "cuda" and torch.cuda._is_in_bad_fork():
        raise UsageError(
            "This process was forked from one that uses CUDA, so it cannot use CUDA. Start it with the method spawn or "
            "forkserver, or use the device cpu.", code="forked_process",
        )  # fmt: skip
    threads = torch.get_num_threads()
    if _parent_has_run and threads > 1 and threading.current_thread() is threading.main_thread():
        raise UsageError(
            f"This process was forked from one that has run networks, and torch is set to {threads} threads; its "
            "computations would never end. Call torch.set_num_threads(1) here, or start the process with the method "
            "spawn or forkserver.", code="forked_process",
        )  # fmt: skip
    _has_run = True


def _after_fork() -> None:
    global _has_run, _parent_has_run
    _parent_has_run = _parent_has_run or _has_run
    _has_run = False
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
