"""The listening socket of the DICOM node: who may connect, how many at once, and the TLS handshake.

pynetdicom accepts every connection, shakes hands in the loop that accepts them, and counts idle connections as
associations. Here peers are counted from the moment they connect. A connection that has not asked for an association
gives way to a new one, so that idle connections do not keep others out.
"""

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from tempfile import NamedTemporaryFile
from typing import Any, Final, cast

from pynetdicom import _config, dimse_messages
from pynetdicom.transport import ThreadedAssociationServer

from kneegrade.errors import UsageError
from kneegrade.server.node.node_connections import Connection
from kneegrade.server.node.node_limits import NodeLimits
from kneegrade.server.peer_address import Network, counted_address, is_in, plain_address
from kneegrade.server.spool.film_spool import Spool

log = logging.getLogger(__name__)
SECONDS_PER_LOG_LINE: Final = 10.0


def configure_pynetdicom() -> None:
    """Set pynetdicom for the whole process: films go to disk as they arrive, and nothing of a peer's data is logged."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False  # at every level it quotes what peers send
    logger.setLevel(logging.CRITICAL)
    setattr(dimse_messages, "NamedTemporaryFile", _film_file)  # noqa: B010


def _film_file(*arguments: Any, **settings: Any) -> Any:
    """The file for a film, called by pynetdicom in the thread that receives it."""
    association = getattr(threading.current_thread(), "assoc", None)
    server = getattr(association, "_server", None)
    if isinstance(server, NodeServer):
        return server.begin_film(association)
    return NamedTemporaryFile(*arguments, **settings)


class Refusals:
    """Counts what was refused by reason, and logs it, but no line per reason more often than every ten seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def add(self, reason: str, address: str) -> None:
        """Count a refusal.

        Args:
            reason: one of a few sentences, without data of the peer.
            address: IP address of the peer.
        """
        now = time.monotonic()
        with self._lock:
            self.counts[reason] = self.counts.get(reason, 0) + 1
            self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
            if now - self._logged.get(reason, -SECONDS_PER_LOG_LINE) < SECONDS_PER_LOG_LINE:
                return
            number, self._logged[reason] = self._unlogged.pop(reason), now
        log.warning("refused: %s (%d times, the last time from %s)", reason, number, address)


class NodeServer(ThreadedAssociationServer):
    """pynetdicom's server with counted connections; `limits`, `spool` and `networks` are set by `prepare`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def prepare(self, limits: NodeLimits, spool: Spool, networks: Iterable[Network], refusals: Refusals) -> None:
        """Set what the constructor of pynetdicom has no arguments for.

        Args:
            limits: of connections and associations.
            spool: for films.
            networks: that may connect; none: all.
            refusals: that are counted.
        """
        self._limits, self._spool, self._networks, self._refusals = limits, spool, tuple(networks), refusals
        self._connections_lock = threading.RLock()
        self._connections: dict[int, Connection] = {}  # by id of the accepted socket

    def get_request(self) -> tuple[socket.socket, Any]:
        """An accepted connection; pynetdicom would shake hands here and hold up the others."""
        assert self.socket is not None
        request, address = self.socket.accept()
        request.settimeout(self._limits.request_seconds)
        return request, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is taken on; the oldest one that has not asked for an association may give way."""
        address = plain_address(client_address[0])
        if self._networks and not is_in(address, self._networks):
            self._refusals.add("the address is not listed", address)
            return False
        with self._connections_lock:
            self._remove_ended()
            living = [one for one in self._connections.values() if not one.is_cut]
            same = [one for one in living if counted_address(one.address) == counted_address(address)]
            is_many = len(same) >= self._limits.connections_per_address
            if is_many or len(living) >= self._limits.connections:
                living = same if is_many else living
                useless = [one for one in living if not one.is_associated]
                useless = useless or [one for one in living if one.is_evictable]
                if not useless or len(self._connections) >= 2 * self._limits.connections:
                    self._refusals.add("too many connections", address)
                    return False
                self.cut(min(useless, key=lambda one: one.last_data), "idle connections made room for others")
            self._connections[id(request)] = Connection(request, address, self._limits)
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, in the thread of the connection, and start its association."""
        connection = self._connections[id(request)]
        try:
            if self.ssl_context is not None:
                connection.socket = self.ssl_context.wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
                )
                connection.socket.settimeout(self._limits.request_seconds)
                connection.socket.do_handshake()
            super().finish_request(connection.socket, client_address)
        except BaseException:
            connection.cut()
            connection.socket.close()
            raise  # to `handle_error`

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Count a connection that failed before its association, usually a TLS handshake; print nothing."""
        with self._connections_lock:
            self._connections.pop(id(request), None)
        self._refusals.add("the TLS handshake or the start of an association failed", plain_address(client_address[0]))

    def connection_of(self, sock: socket.socket | None) -> Connection | None:
        """The connection with a socket."""
        with self._connections_lock:
            return next((one for one in self._connections.values() if one.socket is sock), None)

    def connection_with(self, association: Any) -> Connection | None:
        """The connection with an association."""
        with self._connections_lock:
            return next((one for one in self._connections.values() if one.association is association), None)

    def connections(self) -> list[Connection]:
        """All connections whose threads have not ended."""
        with self._connections_lock:
            self._remove_ended()
            return list(self._connections.values())

    def begin_film(self, association: Any) -> Any:
        """The file for a film of an association."""
        connection = self.connection_with(association)
        if connection is None:
            raise ConnectionAbortedError("the association has ended")
        return connection.begin_film(self._spool)

    def admit(self, connection: Connection, *, is_for_films: bool) -> bool:
        """Whether an association is granted; one that is idle may give way."""
        with self._connections_lock:
            granted = [one for one in self._connections.values() if one.is_for_films and not one.is_cut]
            if is_for_films and len(granted) >= self._limits.associations:
                idle = [one for one in granted if one.is_evictable]
                if not idle:
                    return False
                self.cut(min(idle, key=lambda one: one.last_data), "idle associations made room for others")
            connection.is_associated, connection.is_for_films = True, is_for_films
        return True

    def cut(self, connection: Connection, reason: str) -> None:
        """End a connection."""
        self._refusals.add(reason, connection.address)
        connection.cut()
        self.wake(connection)

    @staticmethod
    def wake(connection: Connection) -> None:
        """Let a thread end that waits for an association request; pynetdicom lets it wait until its timeout."""
        association = connection.association
        if association is not None and association.requestor.primitive is None:
            association.dul.to_user_queue.put(cast(Any, None))  # as after the timeout

    def service_actions(self) -> None:
        """Clean up; called several times a second by the loop that accepts connections."""
        super().service_actions()
        now = time.monotonic()
        with self._connections_lock:
            self._remove_ended()
            for connection in list(self._connections.values()):
                is_late = now - connection.since > self._limits.request_seconds
                if is_late and not connection.is_associated and not connection.is_cut:
                    self.cut(connection, "no association was requested in time")

    def _remove_ended(self) -> None:
        for key, connection in list(self._connections.items()):
            if connection.has_ended:
                connection.close()
                del self._connections[key]


def networks_of(calling: Mapping[str, Iterable[str]]) -> dict[str, tuple[Network, ...]]:
    """The networks that each title may call from; an empty tuple means all.

    Raises:
        UsageError: an address is none.
    """
    try:
        return {
            title.strip(): tuple(ipaddress.ip_network(address, strict=False) for address in addresses)
            for title, addresses in calling.items()
        }
    except ValueError:
        raise UsageError(
            "An address of a caller is not valid; expected an IP address or a network such as 10.0.0.0/24."
        ) from None
