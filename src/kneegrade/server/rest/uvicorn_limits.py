"""Limits that uvicorn lacks: time for headers, TLS handshakes and clients to read, and the number of connections."""

import asyncio
import socket
import weakref
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kneegrade.server.peer_address import counted_address

HEADER_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 30.0  # in which a client reads what was sent
HANDSHAKE_SECONDS: Final = 10.0
MAX_HANDSHAKES: Final = 64  # connections beside the allowed ones, most of them before the end of their TLS handshake
MAX_HEADER_BYTES: Final = 16 * 1024


class LimitedLoop(asyncio.SelectorEventLoop):
    """The loop for `uvicorn.Config(loop=...)`; a TLS handshake has at most `HANDSHAKE_SECONDS`."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        """See asyncio."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_SECONDS)
        return await super().create_server(*arguments, **options)


class LimitedListener(socket.socket):
    """A listening socket that closes further connections at once; protocols see a connection after its handshake only.

    Args:
        listener: that listens already; it is taken over.
        max_connections: open at the same time.
        max_per_address: of them from one IP address.
    """

    def __init__(self, listener: socket.socket, max_connections: int, max_per_address: int) -> None:
        super().__init__(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self._max_connections, self._max_per_address = max_connections, max_per_address
        self._accepted: weakref.WeakKeyDictionary[socket.socket, str] = weakref.WeakKeyDictionary()  # → address

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection and its address.

        Raises:
            ConnectionAbortedError: there are too many; it was closed.
        """
        connection, address = super().accept()
        own = counted_address(address[0])
        others = [known for one, known in self._accepted.items() if one.fileno() >= 0]
        if len(others) >= self._max_connections or others.count(own) >= self._max_per_address:
            connection.close()
            raise ConnectionAbortedError
        self._accepted[connection] = own
        return connection, address


def limited_protocol(
    max_connections: int, header_seconds: float = HEADER_SECONDS, stalled_seconds: float = STALLED_SECONDS
) -> type[H11Protocol]:
    """The class for `uvicorn.Config(http=...)`.

    Args:
        max_connections: further connections are closed at once.
        header_seconds: from the connection, or the last answer, to the end of the headers; also the time in which the
            rest of a body that was refused is read and dropped, so that the client sees the answer.
        stalled_seconds: in which the client reads each piece that was sent; else the connection is aborted.
    """

    class LimitedProtocol(H11Protocol):
        """An HTTP/1.1 connection that is closed if a request takes too long to begin, or its answer to be read."""

        _header_timer: asyncio.TimerHandle | None = None
        _stalled_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.abort()
                return
            transport.set_write_buffer_limits(high=1, low=0)  # any unsent byte calls pause_writing
            self._header_timer = self.loop.call_later(header_seconds, self._close_if_idle)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._waits():
                self._stop_timer()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(header_seconds, self._close_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)  # calls resume_writing

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalled_timer is None:
                self._stalled_timer = self.loop.call_later(stalled_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stalled_timer is not None:
                self._stalled_timer.cancel()
                self._stalled_timer = None
            super().resume_writing()

        def _waits(self) -> bool:
            """Whether no request is in work: there is none yet, or it was answered before the end of its body."""
            is_answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
            return self.conn.their_state is h11.IDLE or is_answered

        def _close_if_idle(self) -> None:
            self._header_timer = None
            if self._waits() and not self.transport.is_closing():
                self.transport.close()

        def _stop_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

    return LimitedProtocol
