"""A service of `kneegrade serve` in a process of its own: node, REST, worker or deliveries.

The supervisor starts it as plain `python -c`, like a worker of `batch`. Its standard input is the settings as one line
of JSON, and then a lifeline: when the supervisor is gone, however it ended, the service ends too. Logs go to standard
error; a traceback, whose text may name a patient, is shortened to places in the source.
"""

import logging
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kneegrade.errors import KneeGradeError
from kneegrade.server.settings import ServeSettings
from kneegrade.server.spool.film_spool import Spool

SERVICES: Final = ("node", "rest", "worker", "deliveries")
USER_ERROR: Final = 2  # exit code where another start would not help
LIFELINE: Final = 0  # file descriptor of standard input
PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[1]); from kneegrade.server.service_process import main; main(sys.argv[2:])"
)
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Run a service until SIGTERM.

    Args:
        arguments: name of the service, and the file descriptor of a listening socket or "-".
    """
    name, descriptor = arguments
    os.umask(0o077)
    settings = ServeSettings.model_validate_json(_first_line(LIFELINE))
    start_logging(settings.log_level)
    threading.Thread(target=_end_with_supervisor, name="lifeline", daemon=True).start()
    try:
        spool = Spool(settings.spool.directory, min_free_bytes=settings.spool.least_free_bytes)
        _run(name, settings, spool, None if descriptor == "-" else socket.socket(fileno=int(descriptor)))
    except KneeGradeError as error:
        _log.error("%s: %s", name, error.message)
        sys.exit(USER_ERROR)
    except Exception as error:
        _log.error("%s ended: %s", name, where_it_failed(error))
        sys.exit(1)


def _run(name: str, settings: ServeSettings, spool: Spool, listener: socket.socket | None) -> None:
    if name == "node":
        from kneegrade.server.node.node_process import run_node

        run_node(settings, spool)
    elif name == "rest":
        from kneegrade.server.rest.rest_server import run_rest

        run_rest(settings, spool, listener)
    elif name == "worker":
        from kneegrade.server.film_worker import run_worker

        run_worker(settings, spool)
    else:
        from kneegrade.server.destinations.delivery import run_deliveries

        run_deliveries(settings, spool)


def start_logging(level: str) -> None:
    """Let kneegrade log to standard error; other libraries only log warnings, as they may show values of a header."""
    logging.basicConfig(level=logging.ERROR, format=_FORMAT, stream=sys.stderr, force=True)
    logging.getLogger("kneegrade").setLevel(level.upper())
    logging.raiseExceptions = False
    for library in ("pydicom", "pynetdicom", "highdicom", "uvicorn.error", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.excepthook = lambda kind, error, trace: _log.critical("%s", where_it_failed(error))
    threading.excepthook = lambda thread: _log.critical("%s", where_it_failed(thread.exc_value or Exception()))


def where_it_failed(error: BaseException) -> str:
    """Kind of an exception and where it was raised, without its text, which may name a patient."""
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)[-4:]]
    return f"{type(error).__name__} at {' > '.join(places) or 'an unknown place'}"


def _first_line(descriptor: int) -> bytes:
    """The first line of a pipe, without buffering what follows."""
    line = bytearray()
    while not line.endswith(b"\n") and (content := os.read(descriptor, 1 << 16)):
        line += content
    return bytes(line)


def _end_with_supervisor() -> None:
    """Ask this process to stop when the lifeline ends. `sys.stdin` has a lock, which would outlive the interpreter."""
    while os.read(LIFELINE, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
