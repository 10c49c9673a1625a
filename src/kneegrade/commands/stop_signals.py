"""Ctrl-C, SIGTERM and SIGHUP during a command that writes what it has done so far."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

STOPPING = tuple(  # SIGHUP: the terminal was closed, or the connection to it was lost; Windows has none
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stop:
    """The signal that asked the command to stop.

    Attributes:
        number: of the signal; None while there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def name(self) -> str:
        """Name of the signal for messages."""
        number = self.number or signal.SIGINT
        return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal; Python drops an exception that is raised in a destructor."""
        if self.number is not None:
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Yields a `Stop`; within the block Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    A signal that was ignored before stays ignored, as `nohup` and background jobs of a shell expect. A
    KeyboardInterrupt that leaves the block becomes a sentence on standard error and `typer.Exit`.
    """
    stop = Stop()

    def handle(number: int, frame: Any) -> None:
        stop.number = number
        raise KeyboardInterrupt

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handle)
    try:
        yield stop
    except KeyboardInterrupt:
        typer.echo(f"kneegrade: The run was stopped by {stop.name} before the results were written.", err=True)
        raise typer.Exit(stop.exit_code) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopCount:
    """The signals that have asked a command to stop.

    Attributes:
        number: of signals so far.
    """

    def __init__(self) -> None:
        self.number = 0
        self._last = Stop()

    @property
    def exit_code(self) -> int:
        """128 plus the number of the last signal."""
        return self._last.exit_code

    @property
    def name(self) -> str:
        """Name of the last signal for messages."""
        return self._last.name

    def add(self, number: int) -> None:
        """Count a signal; after the second one, which should have stopped the command, the next raises."""
        self._last.number = number
        self.number += 1
        if self.number > 2:
            raise KeyboardInterrupt


@contextmanager
def stop_count() -> Iterator[StopCount]:
    """Yields a `StopCount`; within the block Ctrl-C, SIGTERM and SIGHUP are only counted.

    The command looks at the number.

    A signal that was ignored before stays ignored. A KeyboardInterrupt that leaves the block becomes a sentence on
    standard error and `typer.Exit`.
    """
    stop = StopCount()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, lambda number, frame: stop.add(number))
    try:
        yield stop
    except KeyboardInterrupt:
        typer.echo(f"kneegrade: The run was stopped by {stop.name} before it began or was finished.", err=True)
        raise typer.Exit(stop.exit_code) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
