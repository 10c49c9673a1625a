"""Ctrl-C, SIGTERM and SIGHUP during a command that writes what it has done so far."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

STOPPING = tuple(  # SIGHUP: the terminal was closed, or the connection to it was lost; Windows has none
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stop:
    """The signals that asked the command to stop.

    Attributes:
        number: of the last signal; None while there was none.
        count: how many there were.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0

    def add(self, number: int) -> None:
        """Count a signal."""
        self.number = number
        self.count += 1

    @property
    def exit_code(self) -> int:
        """128 plus the number of the last signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def name(self) -> str:
        """Name of the last signal for messages."""
        number = self.number or signal.SIGINT
        return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal; Python drops an exception that is raised in a destructor."""
        if self.number is not None:
            raise KeyboardInterrupt


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within the block the stopping signals call `handler`, in the main thread; ignored ones stay ignored."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Yields a `Stop`; within the block Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    A signal that was ignored before stays ignored, as `nohup` and background jobs of a shell expect. A
    KeyboardInterrupt that leaves the block becomes a sentence on standard error and `typer.Exit`.
    """
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        stop.add(number)
        raise KeyboardInterrupt

    try:
        with _handled_by(handle):
            yield stop
    except KeyboardInterrupt:
        typer.echo(f"kneegrade: The run was stopped by {stop.name} before the results were written.", err=True)
        raise typer.Exit(stop.exit_code) from None


@contextmanager
def stop_count() -> Iterator[Stop]:
    """Yields a `Stop`; within the block Ctrl-C, SIGTERM and SIGHUP are only counted.

    The command looks at `Stop.count`. It should have stopped after the second signal; the third one raises
    KeyboardInterrupt, as in `stop_signals`.
    """
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        stop.add(number)
        if stop.count > 2:
            raise KeyboardInterrupt

    try:
        with _handled_by(handle):
            yield stop
    except KeyboardInterrupt:
        typer.echo(f"kneegrade: The run was stopped by {stop.name} before it began or was finished.", err=True)
        raise typer.Exit(stop.exit_code) from None
