"""The socket and the TLS of the REST service. The supervisor uses them without importing the web framework."""

import socket
import ssl

from kneegrade.errors import UsageError
from kneegrade.server.settings import RestSettings
from kneegrade.server.tls import server_tls


def listening_socket(settings: RestSettings) -> socket.socket:
    """A socket that listens on the address of the settings.

    Raises:
        UsageError: the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    try:
        return socket.create_server((settings.address, settings.port), family=family, backlog=256)
    except OSError as error:
        raise UsageError(
            f"The REST service cannot listen on {settings.address}, port {settings.port} ({error.strerror}); set "
            "another address or port in [rest].",
            code="address",
        ) from error


def rest_tls(settings: RestSettings) -> ssl.SSLContext | None:
    """The TLS of the service; None without a section `[rest.tls]`.

    Raises:
        UsageError: a file cannot be used.
    """
    tls = settings.tls
    return None if tls is None else server_tls("rest.tls", tls.certificate, tls.key, tls.clients)


def url_of(settings: RestSettings, listener: socket.socket) -> str:
    """The address of the service, for example "http://127.0.0.1:8080"."""
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return f"{'http' if settings.tls is None else 'https'}://{host}:{port}"
