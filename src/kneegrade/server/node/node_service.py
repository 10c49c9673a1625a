"""`Node`: C-ECHO and C-STORE for radiographs, into the spool. Nothing else is offered."""

import logging
import re
import threading
import time
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from kneegrade.clinical.uids import IMPLEMENTATION_UID
from kneegrade.errors import UsageError
from kneegrade.imaging.dicom.transfer_syntaxes import readable_transfer_syntaxes
from kneegrade.server.audit_log import AuditLog
from kneegrade.server.node.node_connections import Connection, IncomingFilm
from kneegrade.server.node.node_limits import limit_pdus
from kneegrade.server.node.node_options import NodeOptions
from kneegrade.server.node.node_server import NodeServer, Refusals, configure_pynetdicom, networks_of
from kneegrade.server.node.own_objects import is_own_object
from kneegrade.server.peer_address import is_in
from kneegrade.server.spool.film_spool import Spool, SpoolError

log = logging.getLogger(__name__)
FILM_CLASSES: Final = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
SUCCESS: Final = 0x0000
INVALID_INSTANCE: Final = 0x0117
OUT_OF_RESOURCES: Final = 0xA700
CLASS_MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
COMMENTS: Final = {  # Error Comment, at most 64 characters
    INVALID_INSTANCE: "The SOP Instance UID is missing or malformed.",
    OUT_OF_RESOURCES: "The disk is full or cannot be written; send again later.",
    CLASS_MISMATCH: "The SOP class is not that of the presentation context.",
    CANNOT_UNDERSTAND: "The request contains no data set.",
}
_REJECTED_PERMANENT, _REJECTED_TRANSIENT, _BY_USER, _BY_PRESENTATION = 1, 2, 1, 3
_CALLING_TITLE, _LOCAL_LIMIT = 3, 2
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")  # leading zeros are wrong, but some devices write them
_MAX_UID: Final = 64
_POLL_SECONDS: Final = 0.005  # pause of the thread that looks for data; pynetdicom's 0.001 takes too much of the CPU
_END_SECONDS: Final = 5.0  # for films in transfer when the node stops


class Node:
    """A DICOM node that stores films in a spool.

    pynetdicom is configured for the whole process (`configure_pynetdicom`).

    Args:
        options: address, title, callers, TLS and limits.
        spool: for the films.
        audit: where received films are entered; None: nowhere.

    Raises:
        UsageError: the node cannot listen on its address.
    """

    def __init__(self, options: NodeOptions, spool: Spool, audit: AuditLog | None = None) -> None:
        configure_pynetdicom()
        self._limits, self._spool, self._audit = options.limits, spool, audit
        self._networks = networks_of(options.calling)
        self.refusals = Refusals()
        self._server = self._listen(options)
        every_caller_is_placed = bool(self._networks) and all(self._networks.values())
        allowed = [network for one in self._networks.values() for network in one] if every_caller_is_placed else []
        self._server.prepare(self._limits, spool, allowed, self.refusals)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="DICOM node", daemon=True
        )

    def _listen(self, options: NodeOptions) -> NodeServer:
        entity = AE(options.title)
        entity.implementation_class_uid = IMPLEMENTATION_UID
        entity.implementation_version_name = "KNEEGRADE"
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._networks)
        entity.maximum_associations = 2 * self._limits.connections  # idle connections count there; see `admit`
        entity.network_timeout = self._limits.network_seconds
        entity.acse_timeout = entity.dimse_timeout = self._limits.request_seconds
        entity.add_supported_context(Verification)
        syntaxes = readable_transfer_syntaxes()
        for sop_class in FILM_CLASSES:
            entity.add_supported_context(sop_class, syntaxes)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_DATA_RECV, self._received),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_DIMSE_RECV, self._message),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            server = entity.make_server(
                (options.address, options.port), ae_title=options.title, evt_handlers=handlers,
                server_class=NodeServer, ssl_context=options.tls,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(
                f"The DICOM node cannot listen on {options.address}, port {options.port} ({error.strerror}); choose an "
                "address of this computer and a port that is free.",
                code="address",
            ) from None
        entity._servers.append(server)
        assert isinstance(server, NodeServer)
        return server

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.server_address[1])

    @property
    def is_alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def start(self) -> "Node":
        """Itself, accepting connections in a thread."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Accept nothing more, let films in transfer end for some seconds, and close every connection."""
        deadline = time.monotonic() + _END_SECONDS
        self._server.shutdown()
        while time.monotonic() < deadline and any(one.films for one in self._server.connections()):
            time.sleep(0.05)
        for connection in self._server.connections():
            connection.cut()
            self._server.wake(connection)
        while time.monotonic() < deadline and self._server.connections():
            time.sleep(0.05)
        for connection in self._server.connections():
            connection.close()

    # Handlers of pynetdicom's events. Exceptions would only be logged there, so those that count end the connection.

    def _opened(self, event: Any) -> None:
        association_socket = event.assoc.dul.socket
        connection = self._server.connection_of(association_socket.socket)
        if connection is None:  # ended meanwhile
            association_socket.close()
            return
        connection.association = event.assoc
        event.assoc.dul._run_loop_delay = _POLL_SECONDS
        limit_pdus(
            association_socket, max_bytes=self._limits.pdu_bytes, request_bytes=self._limits.request_bytes,
            seconds=self._limits.pdu_seconds,
            on_refusal=lambda reason: self.refusals.add(reason, connection.address),
        )  # fmt: skip

    def _closed(self, event: Any) -> None:
        if connection := self._server.connection_with(event.assoc):
            self._server.wake(connection)

    def _received(self, event: Any) -> None:
        connection = self._server.connection_with(event.assoc)
        if connection is None:
            event.assoc.dul.socket.close()
        elif not connection.is_cut and (reason := connection.excess(event.data)):
            self._server.cut(connection, reason)

    def _requested(self, event: Any) -> None:
        connection = self._server.connection_with(event.assoc)
        if connection is None:
            return
        networks = self._networks.get(_title(event.assoc))
        if self._networks and (networks is None or (networks and not is_in(connection.address, networks))):
            self.refusals.add("the calling title is not listed for this address", connection.address)
            self._reject(event.assoc, _REJECTED_PERMANENT, _BY_USER, _CALLING_TITLE)
        elif not self._server.admit(connection, is_for_films=_is_for_films(event.assoc)):
            self.refusals.add("too many associations", connection.address)
            self._reject(event.assoc, _REJECTED_TRANSIENT, _BY_PRESENTATION, _LOCAL_LIMIT)

    @staticmethod
    def _reject(association: Any, result: int, source: int, diagnostic: int) -> None:
        association.acse.send_reject(result, source, diagnostic)
        association.kill()

    def _rejected(self, event: Any) -> None:
        """Count what pynetdicom has rejected."""
        if connection := self._server.connection_with(event.assoc):
            connection.is_associated = connection.is_for_films = False
            self.refusals.add("the called title is not that of the node", connection.address)

    def _message(self, event: Any) -> None:
        """Cut off whoever sends other messages, some of which start threads in pynetdicom, or one without an answer."""
        connection = self._server.connection_with(event.assoc)
        if connection is None:
            return
        if not isinstance(event.message, C_ECHO_RQ | C_STORE_RQ):
            self._server.cut(connection, "a message that is not offered")
        elif not _is_complete(event.message):
            self._server.cut(connection, "a message without its necessary elements")

    def _store(self, event: Any) -> Dataset:
        connection = self._server.connection_with(event.assoc)
        status = CANNOT_UNDERSTAND
        if connection is not None and event.request._dataset_path is not None:
            film = connection.take_film(str(event.dataset_path))
            if film is not None:
                try:
                    status = self._accept(event, connection, film)
                finally:
                    film.discard()
        answer = Dataset()
        answer.Status = status
        if status in COMMENTS:
            answer.ErrorComment = COMMENTS[status]
            address = "an ended connection" if connection is None else connection.address
            self.refusals.add(f"a film, with status 0x{status:04X}", address)
        return answer

    def _accept(self, event: Any, connection: Connection, film: IncomingFilm) -> int:
        """The status for a film that has arrived."""
        path = film.complete()
        if path is None:
            return OUT_OF_RESOURCES
        uid = str(event.request.AffectedSOPInstanceUID or "")
        if len(uid) > _MAX_UID or not _UID.fullmatch(uid):
            return INVALID_INSTANCE
        if str(event.request.AffectedSOPClassUID) != event.context.abstract_syntax:
            return CLASS_MISMATCH
        title = _title(event.assoc)
        try:
            if is_own_object(path, event.context.transfer_syntax):
                self.refusals.add("an object of kneegrade was answered with success and not kept", connection.address)
                return SUCCESS
            accepted = self._spool.accept(path, kind="dicom", sop_instance_uid=uid, sender=title)
        except (SpoolError, OSError) as error:
            log.error("a film could not be stored (%s)", type(error).__name__)
            return OUT_OF_RESOURCES
        log.info(
            "film %s received from %s, %s", accepted.key, connection.address, "new" if accepted.is_new else "known"
        )
        self._enter(accepted.key, accepted.is_new, title, connection.address)
        return SUCCESS

    def _enter(self, key: str, is_new: bool, title: str, address: str) -> None:
        if self._audit is None:
            return
        try:
            self._audit.write("film_received", film=key, is_new=is_new, sender=title, address=address)
        except SpoolError as error:  # the film is stored, and the sender must know that
            log.error("the audit log could not be written (%s)", type(error).__name__)


def _title(association: Any) -> str:
    """The calling AE title; pynetdicom sets `requestor.ae_title` only after `EVT_REQUESTED`."""
    return str(association.requestor.primitive.calling_ae_title or "").strip()


def _is_for_films(association: Any) -> bool:
    proposed = association.requestor.primitive.presentation_context_definition_list
    return any(context.abstract_syntax != Verification for context in proposed)


def _is_complete(message: Any) -> bool:
    """Whether pynetdicom answers a request; others it ignores."""
    try:
        return bool(message.message_to_primitive().is_valid_request)
    except Exception:  # of many types, for malformed values
        return False
