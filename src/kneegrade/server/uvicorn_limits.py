"""`LimitedProtocol`: limits that uvicorn lacks: time for the headers of a request, and the number of connections."""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS: Final = 10.0
MAX_HEADER_BYTES: Final = 16 * 1024


def limited_protocol(max_connections: int, header_seconds: float = HEADER_SECONDS) -> type[H11Protocol]:
    """The class for `uvicorn.Config(http=...)`.

    Args:
        max_connections: further connections are closed at once.
        header_seconds: from the connection, or the last answer, to the end of the headers; also the time in which the
            rest of a body that was refused is read and dropped, so that the client sees the answer.
    """

    class LimitedProtocol(H11Protocol):
        """An HTTP/1.1 connection that is closed if a request takes too long to begin."""

        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.abort()
                return
            self._header_timer = self.loop.call_later(header_seconds, self._close_if_idle)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._waits():
                self._stop_timer()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(header_seconds, self._close_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

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
