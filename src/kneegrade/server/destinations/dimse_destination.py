"""`DimseDestination`: results to a DICOM node by C-STORE, all objects of a round over one association."""

import logging
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kneegrade.batch.web_archive import DAMAGED, DUPLICATE, is_final_code, read_object
from kneegrade.errors import UsageError
from kneegrade.server.destinations.delivery import Sent
from kneegrade.server.destinations.destination_settings import DimseSettings, TlsSettings
from kneegrade.server.node.node_limits import limit_pdus
from kneegrade.server.spool.film_spool import Delivery

if TYPE_CHECKING:
    from pynetdicom.association import Association

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0  # to an association request, and to each object
NO_ANSWER: Final = "No answer."
_STORED: Final = (0x0000, DUPLICATE, *range(0xB000, 0xB008))  # the latter with a warning


class DimseDestination:
    """A DICOM node that takes results by C-STORE.

    Args:
        settings: of the node.
        answer_seconds: to wait for an answer.

    Raises:
        UsageError: a package is missing.
    """

    def __init__(self, settings: DimseSettings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._settings, self._answer_seconds = settings, answer_seconds
        try:
            from pynetdicom import _config
        except ImportError:
            raise UsageError(
                'DICOM destinations need pynetdicom; install it with: pip install "kneegrade[dicom]".',
                code="missing_package",
            ) from None
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        logging.getLogger("pynetdicom").setLevel(
            logging.CRITICAL + 1
        )  # it logs UIDs; failures are logged by `delivery`

    @property
    def name(self) -> str:
        """Of the destination in the spool."""
        return self._settings.name

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[Sent]:
        """What became of each delivery; it ends early when there is no association, or it ends."""
        readable = dict[Delivery, tuple[str, str]]()  # SOP class and transfer syntax; content is read one by one
        for delivery in deliveries:
            dataset = read_object(delivery.path)
            if dataset is None:
                yield Sent(delivery, DAMAGED, is_final=True)
            else:
                readable[delivery] = (dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        if readable:
            yield from self._send(readable)

    def _send(self, objects: Mapping[Delivery, tuple[str, str]]) -> Iterator[Sent]:
        with self._association(set(objects.values())) as association:
            if not association.is_established:
                reason = _rejection(association) if association.is_rejected else "No connection."
                yield Sent(next(iter(objects)), reason)
                return
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            for delivery, (sop_class, _) in objects.items():
                if sop_class not in accepted:
                    yield Sent(delivery, "The SOP class is not accepted.", is_final=True)
                    continue
                sent = _stored(association, delivery)
                yield sent
                if sent.error == NO_ANSWER or not association.is_established:  # an abort is noticed a moment later
                    return

    def _on_open(self, event: Any) -> None:
        """Set the limits that pynetdicom lacks; without them, a node that falls silent is never given up."""
        limit_pdus(event.assoc.dul.socket, seconds=self._answer_seconds)
        event.assoc.dul.socket.socket.settimeout(self._answer_seconds)  # for what is sent

    @contextmanager
    def _association(self, contexts: Collection[tuple[str, str]]) -> "Iterator[Association]":
        from pynetdicom import AE, evt

        entity = AE(self._settings.calling)
        entity.connection_timeout = CONNECT_SECONDS
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._answer_seconds
        for sop_class, syntax in contexts:
            other = [ImplicitVRLittleEndian] if syntax == ExplicitVRLittleEndian else []  # pynetdicom converts
            entity.add_requested_context(sop_class, [syntax, *other])
        tls = self._settings.tls
        association = entity.associate(
            self._settings.host, self._settings.port, ae_title=self._settings.title,
            tls_args=None if tls is None else (tls_context(tls), self._settings.host),
            evt_handlers=[(evt.EVT_CONN_OPEN, self._on_open)],
        )  # fmt: skip
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def _rejection(association: "Association") -> str:
    """Why the node rejected the association, in the words of PS3.8, 9.3.4."""
    answer = association.acceptor.primitive
    reason = getattr(answer, "reason_str", "") or ""
    return f"The association was rejected ({reason})." if reason else "The association was rejected."


def _stored(association: "Association", delivery: Delivery) -> Sent:
    """What the node answers to an object."""
    dataset = read_object(delivery.path)
    if dataset is None:
        return Sent(delivery, DAMAGED, is_final=True)
    try:
        status = association.send_c_store(dataset).get("Status")
    except Exception as error:  # of pynetdicom
        return Sent(delivery, f"The object cannot be sent ({type(error).__name__}).")
    if status is None:
        return Sent(delivery, NO_ANSWER)
    if status in _STORED:
        return Sent(delivery)
    return Sent(delivery, f"Refused with status {status:04X}.", is_final_code(status))


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """TLS of version 1.2 or later that checks the other side's certificate and name.

    Raises:
        UsageError: a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(
            f"A certificate or key of a destination cannot be read ({type(error).__name__}); check the files that "
            "serve.toml names under tls.",
            code="tls",
        ) from None
    return context
