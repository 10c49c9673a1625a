"""`spread`: work that falls into tasks, over several processes, a few tasks ahead of whoever takes the results."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

import torch

AHEAD = 4  # tasks in hand per process: enough to keep it busy, few enough for memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Every task with the result of `work` on it, as they come; a caller that stops early drops what is left.

    Args:
        work: can be sent to another process.
        tasks: likewise.
        workers: processes of one thread each; 1 works in this one, in order.
    """
    if workers == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    waiting, running = iter(tasks), dict[Future[Result], Task]()
    try:
        while True:
            running |= {pool.submit(work, task): task for task in islice(waiting, AHEAD * workers - len(running))}
            if not running:
                return
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(finished), finished.result()
    finally:
        pool.shutdown(cancel_futures=True)
