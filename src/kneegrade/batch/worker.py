"""A worker process of `local_engine` and the server: it answers each film with its outcome until its connection ends.

It is started as plain `python -c`, so that scripts need no `if __name__ == "__main__"`. It has a session of its own and
ignores Ctrl-C, SIGTERM and SIGHUP: only the parent decides when it stops, so that a signal to all processes of a job,
as terminals and schedulers send it, damages no film. If the parent dies, the connection ends, and so does the worker.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, Protocol, TypeVar

from kneegrade.errors import KneeGradeError
from kneegrade.imaging.decoding_process import PACKAGE_ROOT, SINGLE_THREAD_ENV

READY: Final = "ready"
START_SECONDS: Final = 300.0  # to load the networks
END_SECONDS: Final = 10.0  # to end after the connection was closed
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from kneegrade.batch.worker import main; main(int(sys.argv[2]))"


Film = TypeVar("Film", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)
GivenFilm = TypeVar("GivenFilm")
FoundOutcome = TypeVar("FoundOutcome")


class Task(Protocol[Film, Outcome]):
    """What the workers do, for example `FilmTask`; it can be pickled."""

    def start(self) -> Callable[[Film], Outcome]:
        """The function from film to outcome, for example `FilmRows`, after a preparation in the worker."""


def main(handle: int) -> None:
    """Serve the connection with this file descriptor."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)
    connection: Connection = Connection(handle)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        task: Task[Any, Any] = connection.recv()
        try:
            grade = task.start()
        except KneeGradeError as error:
            connection.send(error)
            return
        connection.send(READY)
        while True:
            connection.send(grade(connection.recv()))


class Worker(Generic[GivenFilm, FoundOutcome]):
    """A worker process, seen from the parent.

    Attributes:
        connection: becomes readable when the worker has answered or died.
        film: that it works on, or None.
        films: number of films that it has finished.
        is_ready: whether it has loaded the networks.
    """

    def __init__(self, task: Task[GivenFilm, FoundOutcome], film_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", _PROGRAM, str(PACKAGE_ROOT), str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **SINGLE_THREAD_ENV},
            )  # fmt: skip
        self.connection: Connection = Connection(ours.detach())
        self.connection.send(task)
        self.film: GivenFilm | None = None
        self.films = 0
        self._film_seconds = film_seconds
        self.is_ready = False
        self._deadline = time.monotonic() + START_SECONDS

    @property
    def has_expired(self) -> bool:
        """Whether it has worked on its film, or on loading the networks, for longer than allowed."""
        waits = self.is_ready and self.film is None
        return not waits and time.monotonic() > self._deadline

    @property
    def has_ended(self) -> bool:
        """Whether the process has died."""
        return self._process.poll() is not None

    def give(self, film: GivenFilm, film_seconds: float | None = None) -> None:
        """Let it work on a film. A worker that has died is noticed when its answer is read.

        Args:
            film: to work on.
            film_seconds: time limit of this film; None: that of the films before.
        """
        self.film = film
        self._film_seconds = self._film_seconds if film_seconds is None else film_seconds
        if self.is_ready:
            self._deadline = time.monotonic() + self._film_seconds
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(film)

    def answer(self) -> FoundOutcome | None:
        """The outcome of its film, or None if it has just loaded the networks.

        Raises:
            EOFError: it has died.
            KneeGradeError: the networks cannot be loaded.
        """
        try:
            message = self.connection.recv()
        except ConnectionResetError:
            raise EOFError from None
        if isinstance(message, KneeGradeError):
            raise message
        if message == READY:
            self.is_ready = True
            self._deadline = time.monotonic() + self._film_seconds
            return None
        self.film, self.films = None, self.films + 1
        outcome: FoundOutcome = message
        return outcome

    def kill(self, grace_seconds: float = 0.0) -> int:
        """The exit status, after the process and its decoding process were killed.

        Args:
            grace_seconds: for a process that is ending by itself, whose own exit status is wanted.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.connection.close()
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for a disk or network that does not answer
            return -signal.SIGKILL

    def let_go(self) -> None:
        """Tell the process to end after its film."""
        self.connection.close()

    def wait(self) -> None:
        """Wait for the end of a process that was let go; if it does not end, kill it."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
