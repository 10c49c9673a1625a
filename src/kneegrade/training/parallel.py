"""`parallel_map`: apply a function to many tasks in several processes, with a bounded number of tasks in memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

import torch

TASKS_PER_WORKER = 4  # submitted at a time: enough to keep a process busy, few enough for the results to fit in memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Pairs (task, `function(task)`) in order of completion.

    If the caller stops iterating, tasks that have not started are cancelled.

    Args:
        function: can be pickled.
        tasks: can be pickled; consumed only a few tasks ahead of the results.
        workers: number of processes, one thread each; 1 runs the tasks in this process, in order, and so does a system
            without semaphores (no /dev/shm).
    """
    pool = _pool(workers) if workers > 1 else None
    if pool is None:
        yield from ((task, function(task)) for task in tasks)
        return
    waiting, running = iter(tasks), dict[Future[Result], Task]()
    try:
        while True:
            free = TASKS_PER_WORKER * workers - len(running)
            running |= {pool.submit(function, task): task for task in islice(waiting, free)}
            if not running:
                return
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(finished), finished.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor | None:
    """Processes of one thread each; None where the system has no semaphores, with which they share their work."""
    try:
        return ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
    except (OSError, ImportError, NotImplementedError):
        return None
