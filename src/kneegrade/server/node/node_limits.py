"""Limits of the DICOM node that pynetdicom does not have: bytes and time of a PDU, a message and a film.

pynetdicom reads as many bytes as a peer announces (up to 4 GiB) into memory, and waits for it without a limit in total.
`limit_pdus` replaces the function that reads; `kneegrade.server.node.node_connections` counts what a peer sends.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from kneegrade.imaging.limits import MEBIBYTE

MAX_PDU_BYTES: Final = 128 * 1024
PDU_SECONDS: Final = 30.0


@dataclass(frozen=True)
class NodeLimits:
    """What peers may use.

    Attributes:
        associations: at the same time, for films; those for C-ECHO alone only count as connections.
        connections: at the same time, those without an association included.
        connections_per_address: the same, from one IP address (IPv6: from one network of 64 bits).
        pdu_bytes: of one PDU; 16 KiB are announced to peers for their films.
        request_bytes: of one PDU before an association is granted: decoding it takes longer than of one with data.
        film_bytes: of one film.
        message_bytes: of a command, and of data that are not a film: they are kept in memory.
        waiting_messages: complete messages that wait for the answer to the one before.
        pdu_seconds: from the first to the last byte of a PDU.
        message_seconds: from the first to the last byte of a message.
        request_seconds: from the connection to the association request, with the TLS handshake.
        network_seconds: without any data, after which an association is aborted.
        unused_seconds: after which an association without any message is ended, if another one needs its place.
        idle_seconds: after which any association that is idle is ended, if another one needs its place.
    """

    associations: int = 20
    connections: int = 32
    connections_per_address: int = 24
    pdu_bytes: int = MAX_PDU_BYTES
    request_bytes: int = 64 * 1024
    film_bytes: int = 256 * MEBIBYTE
    message_bytes: int = 256 * 1024
    waiting_messages: int = 4
    pdu_seconds: float = PDU_SECONDS
    message_seconds: float = 600.0
    request_seconds: float = 30.0
    network_seconds: float = 60.0
    unused_seconds: float = 1.0
    idle_seconds: float = 10.0


def limit_pdus(
    association_socket: Any, *, max_bytes: int = MAX_PDU_BYTES, request_bytes: int = MAX_PDU_BYTES,
    seconds: float = PDU_SECONDS, on_refusal: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Let no PDU be read that announces more bytes than allowed, or that takes longer.

    `DULServiceProvider._read_pdu_data` takes an `OSError` as a closed connection.

    Args:
        association_socket: `association.dul.socket` of pynetdicom, in a handler of `EVT_CONN_OPEN`.
        max_bytes: of the part of a PDU after its header.
        request_bytes: the same, before the association is established.
        seconds: for one call, that is for the header of a PDU and for its rest.
        on_refusal: called with the reason when a connection is ended.
    """

    def refuse(sock: socket.socket, reason: str) -> None:
        shut(sock)
        if on_refusal is not None:
            on_refusal(reason)

    def recv(nr_bytes: int) -> bytearray:
        sock = association_socket.socket
        if sock is None:
            raise ConnectionAbortedError("the connection was closed")
        allowed = max_bytes if association_socket.assoc.is_established else min(request_bytes, max_bytes)
        if nr_bytes > allowed:
            refuse(sock, "a PDU is too long")
            raise ConnectionAbortedError(f"a PDU of {nr_bytes} bytes was announced; at most {allowed} are allowed")
        try:
            return _received(sock, nr_bytes, time.monotonic() + seconds)
        except TimeoutError:
            refuse(sock, "a PDU takes too long")
            raise

    association_socket.recv = recv


def _received(sock: socket.socket, nr_bytes: int, deadline: float) -> bytearray:
    """The next bytes; fewer if the peer closed the connection."""
    data = bytearray(nr_bytes)
    view, count = memoryview(data), 0
    while count < nr_bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the peer sends too slowly")
        sock.settimeout(remaining)
        number = sock.recv_into(view[count:])
        if number == 0:
            break
        count += number
    view.release()
    del data[count:]
    return data


def shut(sock: socket.socket) -> None:
    """End a connection in both directions; threads that wait for it go on, and its closing resets it.

    Without the reset, a peer that still sends would wait for its own timeout.
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # without the farewell of TLS, which could block
