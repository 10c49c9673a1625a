"""`Progress`: the type of every progress callback."""

from typing import Protocol


class Progress(Protocol):
    """A function that is called after each finished part of a long task."""

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Show progress.

        Args:
            done: number of finished parts.
            total: number of all parts.
            loss: training loss, where the task is a training run.
        """
