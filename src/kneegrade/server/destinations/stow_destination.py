"""`StowDestination`: results to a DICOMweb service by STOW-RS, each object in a request of its own."""

from collections.abc import Callable, Iterator, Sequence

from kneegrade.batch.web_archive import NotStored, WebArchive
from kneegrade.batch.web_session import WebAccess, WebSession
from kneegrade.server.destinations.delivery import Sent
from kneegrade.server.destinations.destination_settings import StowSettings, WebDestination
from kneegrade.server.spool.film_spool import Delivery


def web_access(settings: WebDestination) -> WebAccess:
    """Secrets and certificates of a destination behind a URL."""
    tls = settings.tls
    if tls is None:
        return WebAccess(settings.token)
    return WebAccess(settings.token, ca=tls.ca, certificate=tls.certificate, key=tls.key)


class StowDestination:
    """A DICOMweb service that takes results by STOW-RS.

    Args:
        settings: of the service.
        silent_seconds: to wait for an answer.
    """

    def __init__(self, settings: StowSettings, *, silent_seconds: float = 60.0) -> None:
        self._settings, self._silent_seconds = settings, silent_seconds

    @property
    def name(self) -> str:
        """Of the destination in the spool."""
        return self._settings.name

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[Sent]:
        """What became of each delivery; it ends early when the service takes nothing."""
        with WebSession(web_access(self._settings), silent_seconds=self._silent_seconds) as session:
            archive = WebArchive(self._settings.url, session)
            yield from sent_one_by_one(deliveries, lambda delivery: archive.store(delivery.path.read_bytes()))


def sent_one_by_one(deliveries: Sequence[Delivery], deliver: Callable[[Delivery], NotStored | None]) -> Iterator[Sent]:
    """What became of each delivery; it ends early when the service takes nothing.

    Args:
        deliveries: to be sent.
        deliver: sends one; None if the service has taken it, else why not.
    """
    for delivery in deliveries:
        failure = deliver(delivery)
        if failure is None:
            yield Sent(delivery)
            continue
        yield Sent(delivery, failure.reason, failure.is_final)
        if failure.is_unavailable:
            return
