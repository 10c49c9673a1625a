"""A peer's connection: what has arrived on it, and the films that are being received.

`IncomingFilm` takes the place of the temporary file that pynetdicom opens for a film.
"""

import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from kneegrade.errors import KneeGradeError
from kneegrade.imaging.limits import MEBIBYTE
from kneegrade.server.node.node_limits import NodeLimits, shut
from kneegrade.server.spool.film_spool import Spool

if TYPE_CHECKING:
    from pynetdicom.association import Association

P_DATA_TF: Final = 4  # PDU type
_IS_COMMAND, _IS_LAST = 1, 2  # bits of the message control header of a fragment (PS3.8, E.2)
_BYTES_PER_DISK_CHECK: Final = 16 * MEBIBYTE


class IncomingFilm:
    """The file that pynetdicom writes a film to as it arrives, in `tmp` of the spool.

    A full disk raises no error here, because pynetdicom would end the association: the rest of the film is dropped, and
    the sender gets a status that says so.

    Attributes:
        name: path of the file.
        file: this object, whose `flush` pynetdicom calls after each fragment.
        has_failed: whether the disk is full or cannot be written.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stream: BinaryIO | None = None
        self._unchecked_bytes = 0
        self.has_failed = False
        self.name = str(spool.directory / "tmp" / "no film")
        try:
            if spool.is_full():
                self._fail()
                return
            self._stream, path = spool.temporary_file()
            self.name = str(path)
        except (KneeGradeError, OSError):
            self._fail()

    @property
    def file(self) -> "IncomingFilm":
        """See the class."""
        return self

    def write(self, data: bytes) -> int:
        """The number of bytes, also if they were dropped."""
        if self._stream is not None:
            try:
                self._stream.write(data)
                self._unchecked_bytes += len(data)
                if self._unchecked_bytes > _BYTES_PER_DISK_CHECK:
                    self._unchecked_bytes = 0
                    if self._spool.is_full():
                        self._fail()
            except (KneeGradeError, OSError):
                self._fail()
        return len(data)

    def flush(self) -> None:
        """Do nothing: the content is needed only when the film is complete."""

    def close(self) -> None:
        """Do nothing: `complete` and `discard` close the file."""

    def complete(self) -> Path | None:
        """The path of the complete, closed file; None if it could not be written."""
        try:
            if self._stream is not None:
                self._stream.close()
        except OSError:
            self._fail()
        self._stream = None
        return None if self.has_failed else Path(self.name)

    def discard(self) -> None:
        """Close and remove the file, if it is still there."""
        with suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        self._stream = None
        with suppress(OSError):
            Path(self.name).unlink(missing_ok=True)

    def _fail(self) -> None:
        self.has_failed = True
        self.discard()


class Connection:
    """A peer's connection, from its acceptance to the end of its association.

    Attributes:
        socket: of the connection; replaced by the one of TLS.
        address: IP address of the peer.
        association: of pynetdicom, once it exists.
        is_associated: whether an association was granted.
        is_for_films: whether it is for films, not for C-ECHO alone.
        is_cut: whether the node has ended the connection.
        since: when the connection was accepted; monotonic time, as all times here.
        films: that are being received or wait for the answer, by path.
    """

    def __init__(self, sock: socket.socket, address: str, limits: NodeLimits) -> None:
        self.socket, self.address = sock, address
        self._accepted = sock  # kept, because its id names the connection
        self.association: Association | None = None
        self.is_associated = self.is_for_films = self.is_cut = False
        self.films: dict[str, IncomingFilm] = {}
        self.since = self._last_data = time.monotonic()
        self._limits = limits
        self._messages = 0
        self._message_since = 0.0
        self._bytes = {"command": 0, "data": 0}

    @property
    def has_ended(self) -> bool:
        """Whether the thread of the association has ended."""
        return self.association is not None and self.association.ident is not None and not self.association.is_alive()

    @property
    def is_evictable(self) -> bool:
        """Whether the association may be ended because another one needs its place: nothing arrives or has arrived."""
        if self.films or _has_data(self.socket):
            return False
        idle = time.monotonic() - self._last_data
        return idle >= (self._limits.idle_seconds if self._messages else self._limits.unused_seconds)

    @property
    def last_data(self) -> float:
        """When the last PDU arrived, or the connection was accepted."""
        return self._last_data

    def begin_film(self, spool: Spool) -> IncomingFilm:
        """The file for a film that begins."""
        film = IncomingFilm(spool)
        self.films[film.name] = film
        return film

    def take_film(self, path: str) -> IncomingFilm | None:
        """The film with a path, which is complete."""
        return self.films.pop(path, None)

    def discard_films(self) -> None:
        """Remove what has arrived of films that were not completed."""
        for film in list(self.films.values()):
            film.discard()
        self.films.clear()

    def excess(self, pdu: bytes) -> str | None:
        """The reason why the peer must be cut off because of this PDU, or None.

        A peer that never marks a fragment as the last one would fill the memory (commands) or the disk (data sets).
        """
        self._last_data = now = time.monotonic()
        if not pdu or pdu[0] != P_DATA_TF:
            return None
        assert self.association is not None
        dimse = self.association.dimse
        is_film = isinstance(getattr(dimse.message, "_data_set_file", None), IncomingFilm)
        if max(dimse.msg_queue.qsize(), len(self.films) - 1) > self._limits.waiting_messages:
            return "too many messages without waiting for answers"
        position = 6
        while position + 6 <= len(pdu):
            length, control = int.from_bytes(pdu[position : position + 4], "big"), pdu[position + 5]
            if reason := self._count(length, control, now, is_film=is_film):
                return reason
            position += 4 + length
        return None

    def _count(self, length: int, control: int, now: float, *, is_film: bool) -> str | None:
        kind = "command" if control & _IS_COMMAND else "data"
        if kind == "command" and self._bytes["command"] == 0:
            self._message_since = now
            self._messages += 1
        self._bytes[kind] += length
        if kind == "data" and is_film:
            if self._bytes[kind] > self._limits.film_bytes:
                return "a film is too large"
        elif self._bytes[kind] > self._limits.message_bytes:
            return f"the {kind} of a message is too large"
        if now - self._message_since > self._limits.message_seconds:
            return "a message takes too long"
        if control & _IS_LAST:
            self._bytes[kind] = 0
        return None

    def close(self) -> None:
        """Close the socket, which pynetdicom leaves open if the peer was cut off, and remove unfinished films."""
        with suppress(OSError):
            self.socket.close()
        self.discard_films()

    def cut(self) -> None:
        """End the connection; its threads notice it."""
        self.is_cut = True
        shut(self.socket)


def _has_data(sock: socket.socket) -> bool:
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return False
