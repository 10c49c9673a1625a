"""`Supervisor`: the processes of `kneegrade serve`; one that dies is started again, and all end together.

The supervisor opens the socket of the REST service and keeps it, so that a client that connects while this service is
started again only waits. It also does the upkeep of the spool: recovery at the start, retention at the start and then
daily.
"""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.imaging.decoding_process import SINGLE_THREAD_ENV
from kneegrade.server.rest.rest_listener import listening_socket, rest_tls, url_of
from kneegrade.server.rest.tokens import TokenFile
from kneegrade.server.service_process import PACKAGE_ROOT, PROGRAM, USER_ERROR
from kneegrade.server.settings import ServeSettings
from kneegrade.server.spool.film_spool import Spool, SpoolError
from kneegrade.server.spool.retention import DAY_SECONDS, purge_films

POLL_SECONDS: Final = 0.1
END_SECONDS: Final = 8.0  # after SIGTERM, before SIGKILL
START_SECONDS: Final = 20.0  # in which a service that ends with a user's error ends the others too
FIRST_WAIT_SECONDS: Final = 0.5  # before a service is started again, doubled each time
MAX_WAIT_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 60.0  # after which an earlier death no longer counts
_PACKAGES: Final = {"fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve", "pynetdicom": "serve"}
_log = logging.getLogger(__name__)


@dataclass
class _Service:
    """A service and its process.

    Attributes:
        name: of `service_process.SERVICES`.
        process: that runs now, or None.
        deaths: in a row.
        started: when, on the monotonic clock.
        next_start: when it may be started.
    """

    name: str
    process: "subprocess.Popen[bytes] | None" = None
    deaths: int = 0
    started: float = 0.0
    next_start: float = 0.0
    lifeline: int = field(default=-1, repr=False)


@contextmanager
def _private_files() -> Iterator[None]:
    """Files that are made meanwhile are for this user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


class Supervisor:
    """Runs the services of the settings.

    Args:
        settings: of the service.

    Attributes:
        url: of the REST service, or None.

    Raises:
        UsageError: a package is missing, the spool is in use by another supervisor, or a port cannot be used.
    """

    def __init__(self, settings: ServeSettings) -> None:
        require_serve()
        self._settings = settings
        self._listener = _rest_listener(settings)
        names = [name for name, wanted in (
            ("rest", settings.rest), ("node", settings.node), ("worker", True), ("deliveries", settings.destination),
        ) if wanted]  # fmt: skip
        self._services = [_Service(name) for name in names]
        self._first_start = time.monotonic()
        self._next_purge = 0.0
        self.url = None
        if settings.rest is not None and self._listener is not None:
            self.url = url_of(settings.rest, self._listener)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the services that run, by name."""
        return {one.name: one.process.pid for one in self._services if one.process is not None}

    def run(self, stopped: Callable[[], bool], on_step: Callable[[], None] = lambda: None) -> None:
        """Run all services until `stopped`.

        Args:
            stopped: asked several times a second.
            on_step: called as often.

        Raises:
            KneeGradeError: the spool cannot be used, or a service cannot start for a reason that the user can correct,
                which it has logged.
        """
        directory = self._settings.spool.directory
        with ExitStack() as stack:
            stack.enter_context(_private_files())
            spool = Spool(directory, min_free_bytes=self._settings.spool.least_free_bytes)
            stack.enter_context(_locked(directory))
            found = spool.recover()
            _log.info("Spool: %d temporary files removed, %d films found, %d films in work freed.",
                      found.temporary_files, found.indexed_films, found.freed_films)  # fmt: skip
            try:
                while not stopped():
                    self._purge(spool)
                    for service in self._services:
                        self._look_after(service, spool)
                    on_step()
                    time.sleep(POLL_SECONDS)
            finally:
                self._end(spool)

    def _look_after(self, service: _Service, spool: Spool) -> None:
        """Start a service, or start it again."""
        now = time.monotonic()
        if service.process is None:
            if now >= service.next_start:
                self._start(service)
            return
        status = service.process.poll()
        if status is None:
            if service.deaths and now - service.started > STEADY_SECONDS:
                service.deaths = 0
            return
        pid = service.process.pid
        self._forget(service)
        if service.name == "worker":
            _try(lambda: spool.release_worker(pid))
        if status == USER_ERROR and now - self._first_start < START_SECONDS:
            raise KneeGradeError(
                f"The service `{service.name}` could not start; the line above says why.", code="service"
            )
        service.deaths += 1
        wait = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (service.deaths - 1))
        service.next_start = now + wait
        _log.error("The service %s ended with status %d and is started again in %.1f s.", service.name, status, wait)

    def _start(self, service: _Service) -> None:
        listener = self._listener if service.name == "rest" else None
        handle = "-" if listener is None else str(listener.fileno())
        ours, theirs = os.pipe()
        service.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM, str(PACKAGE_ROOT), service.name, handle],
            stdin=ours, stdout=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **SINGLE_THREAD_ENV},
            pass_fds=() if listener is None else (listener.fileno(),),
        )  # fmt: skip
        os.close(ours)
        service.lifeline, service.started = theirs, time.monotonic()
        with suppress(OSError):  # it has died already
            os.write(theirs, self._settings.model_dump_json().encode() + b"\n")
        _log.info("Started the service %s.", service.name)

    def _forget(self, service: _Service) -> None:
        if service.process is not None:
            if service.process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(service.process.pid, signal.SIGKILL)
                service.process.wait()
            service.process = None
            os.close(service.lifeline)

    def _end(self, spool: Spool) -> None:
        """End all services, those that do not end by themselves with SIGKILL."""
        running = [one.process for one in self._services if one.process is not None]
        worker = self.pids.get("worker")
        for process in running:
            process.terminate()
        end = time.monotonic() + END_SECONDS
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        for service in self._services:
            self._forget(service)
        if worker is not None:
            _try(lambda: spool.release_worker(worker))
        if self._listener is not None:
            self._listener.close()
        _log.info("All services have ended.")

    def _purge(self, spool: Spool) -> None:
        """Remove old films and results, once a day."""
        if time.monotonic() < self._next_purge:
            return
        self._next_purge = time.monotonic() + DAY_SECONDS
        days = self._settings.spool.keep_days
        if removed := _try(lambda: purge_films(spool, days=days, by="retention")):
            _log.info("Removed %d films older than %g days.", removed, days)


def _try(change: Callable[[], int]) -> int:
    """The result of a change of the spool; 0 if it could not be made."""
    try:
        return change()
    except SpoolError as error:
        _log.error("Upkeep of the spool failed: %s", error.message)
        return 0


def require_serve() -> None:
    """Check that the packages of the service are installed.

    Raises:
        UsageError: one is missing.
    """
    for package, extra in _PACKAGES.items():
        if find_spec(package) is None:
            raise UsageError(
                f'`kneegrade serve` needs the package {package}; install it with `pip install "kneegrade[{extra}]"`.',
                code="missing_package",
            )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Within the block, no other supervisor uses the spool.

    Raises:
        UsageError: another one does.
    """
    handle = os.open(directory / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(
            "Another `kneegrade serve` uses this spool; stop it, or choose another directory in [spool].", code="locked"
        ) from None
    finally:
        os.close(handle)


def _rest_listener(settings: ServeSettings) -> socket.socket | None:
    if settings.rest is None:
        return None
    TokenFile(settings.rest.tokens)  # mistakes in it and in the certificates are found before anything starts
    rest_tls(settings.rest)
    return listening_socket(settings.rest)
