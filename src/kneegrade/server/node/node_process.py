"""`run_node`: the process of `kneegrade serve` that receives films by DICOM.

It has a process of its own, because pynetdicom is configured for a whole process and because films from the network
must not end the other services.
"""

import logging
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.server.audit_log import AUDIT_FILE, AuditLog
from kneegrade.server.node.node_options import NodeOptions, NodeSettings
from kneegrade.server.spool.film_spool import Spool

log = logging.getLogger(__name__)


class ServeSettings(Protocol):
    """The settings with the section `[node]`."""

    @property
    def node(self) -> NodeSettings | None:
        """The section; None: no node."""


def run_node(settings: ServeSettings, spool: Spool, on_ready: Callable[[int], None] | None = None) -> None:
    """Receive films into the spool until SIGTERM or Ctrl-C; called in the main thread of a process.

    Args:
        settings: of `kneegrade serve`.
        spool: for the films.
        on_ready: called with the port once associations are accepted.

    Raises:
        UsageError: there is no section `[node]`, a package is missing, or the address or TLS cannot be used.
        KneeGradeError: the self-test failed (`kneegrade.server.node.node_self_test`).
    """
    if settings.node is None:
        raise UsageError("serve.toml has no section [node]; add one to receive films by DICOM.")
    require_pynetdicom()
    from kneegrade.server.node.node_self_test import check_limits
    from kneegrade.server.node.node_service import Node

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_quiet()
    check_limits()
    node = Node(NodeOptions.of(settings.node), spool, AuditLog(spool.directory / AUDIT_FILE)).start()
    log.info("the DICOM node %s listens on port %d", settings.node.title, node.port)
    if on_ready is not None:
        on_ready(node.port)
    while not stop.wait(1.0):
        if not node.is_alive:
            raise KneeGradeError("The DICOM node has stopped accepting connections; it must be started again.")
    node.stop()


def require_pynetdicom() -> None:
    """Check that pynetdicom is installed.

    Raises:
        UsageError: it is not; the message names the extra.
    """
    try:
        import pynetdicom  # noqa: F401
    except ImportError:
        raise UsageError(
            'The DICOM node needs pynetdicom; install it with: pip install "kneegrade[serve]".', code="missing_package"
        ) from None


def keep_quiet() -> None:
    """Print no warning and no traceback of this process, and nothing of pydicom: they quote what peers send."""
    warnings.simplefilter("ignore")
    pydicom_log = logging.getLogger("pydicom")
    pydicom_log.propagate = False
    pydicom_log.setLevel(logging.CRITICAL)
    threading.excepthook = _log_type


def _log_type(arguments: Any) -> None:
    log.error("a thread of the DICOM node ended (%s)", arguments.exc_type.__name__)
