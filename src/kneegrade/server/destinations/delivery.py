"""`run_deliveries`: results from the spool to their destinations, each object to each destination on its own.

Every destination has a thread of its own, so a slow or dead one holds up no other. A delivery that failed waits longer
each time (`Spool`); when a destination as a whole takes nothing, the round ends with the delivery that met this, and
the others stay due. An object is `sent` only after the destination said that it has it. If kneegrade is killed in
between, the object is sent again; its SOP Instance UID is the same, so the destination still has one.
"""

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

from kneegrade.errors import KneeGradeError
from kneegrade.server.destinations.destination_settings import DestinationSettings, DimseSettings, StowSettings
from kneegrade.server.spool.film_spool import Delivery, Spool

LOOK_SECONDS: Final = 1.0  # between two looks for due deliveries
PAUSE_SECONDS: Final = 5.0  # after a round that the destination ended; doubled each time
MAX_PAUSE_SECONDS: Final = 60.0
END_SECONDS: Final = 10.0  # for objects under way, after SIGTERM
GONE: Final = "The file of the result is missing."
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """What became of a delivery.

    Attributes:
        delivery: that was tried.
        error: a short text without patient data; None: the destination has the object.
        is_final: whether another attempt is useless.
    """

    delivery: Delivery
    error: str | None = None
    is_final: bool = False


class Destination(Protocol):
    """Where results are sent."""

    @property
    def name(self) -> str:
        """Of the destination in the spool."""

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[Sent]:
        """What became of each delivery, as soon as it is known.

        It ends early, after the delivery that met it, when the destination as a whole takes nothing at the moment.
        """


@dataclass(frozen=True)
class Round:
    """What a round of deliveries came to.

    Attributes:
        sent: number of objects that the destination has now.
        failed: number of attempts that failed.
        left: number of deliveries that were due and not tried, as the destination takes nothing.
    """

    sent: int = 0
    failed: int = 0
    left: int = 0


def destination_of(settings: DestinationSettings) -> Destination:
    """The destination that a section of serve.toml describes."""
    if isinstance(settings, DimseSettings):
        from kneegrade.server.destinations.dimse_destination import DimseDestination

        return DimseDestination(settings)
    if isinstance(settings, StowSettings):
        from kneegrade.server.destinations.stow_destination import StowDestination

        return StowDestination(settings)
    from kneegrade.server.destinations.fhir_destination import FhirDestination

    return FhirDestination(settings)


def deliver_due(spool: Spool, destination: Destination) -> Round:
    """What one round came to: each delivery to the destination that is due is tried once."""
    due = spool.due_deliveries(destination.name)
    present = [delivery for delivery in due if delivery.path.is_file()]
    sent, failed = 0, 0
    for delivery in due:
        if delivery not in present:
            _record(spool, Sent(delivery, GONE, is_final=True))
            failed += 1
    for one in destination.send(present) if present else ():
        _record(spool, one)
        sent, failed = sent + (one.error is None), failed + (one.error is not None)
    return Round(sent, failed, len(due) - sent - failed)


def _record(spool: Spool, sent: Sent) -> None:
    delivery = sent.delivery
    spool.record_delivery(delivery, error=sent.error, is_final=sent.is_final)
    where = (delivery.object, delivery.film, delivery.destination)
    if sent.error is None:
        _log.info("%s of film %s is at %s.", *where)
    else:
        _log.warning("%s of film %s was not taken by %s: %s", *where, sent.error)


def deliver_until(
    spool: Spool, destination: Destination, stopped: threading.Event, *, look_seconds: float = LOOK_SECONDS,
    pause_seconds: float = PAUSE_SECONDS,
) -> None:  # fmt: skip
    """Deliver to a destination until `stopped` is set. No error ends it."""
    pause = pause_seconds
    while not stopped.is_set():
        is_trouble = True
        try:
            done = deliver_due(spool, _Stoppable(destination, stopped))
            is_trouble = done.left > 0
        except KneeGradeError as error:  # the spool, a token file or a certificate cannot be read at the moment
            _log.error("Deliveries to %s have to wait: %s", destination.name, error.message)
        except Exception as error:  # the text of the error may name the patient
            kind = type(error).__name__
            _log.error("Deliveries to %s have to wait: an error in kneegrade (%s).", destination.name, kind)
        if is_trouble:
            stopped.wait(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            continue
        pause = pause_seconds
        if done == Round():
            stopped.wait(look_seconds)


@dataclass(frozen=True)
class _Stoppable:
    """A destination whose rounds end early once `stopped` is set."""

    destination: Destination
    stopped: threading.Event

    @property
    def name(self) -> str:
        return self.destination.name

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[Sent]:
        for sent in self.destination.send(deliveries):
            yield sent
            if self.stopped.is_set():
                return


class HasDestinations(Protocol):
    """Settings with sections of destinations, such as `ServeSettings`."""

    @property
    def destination(self) -> Sequence[DestinationSettings]:
        """The sections."""


def run_deliveries(settings: HasDestinations, spool: Spool) -> None:
    """Deliver to all destinations until SIGTERM or SIGINT; it runs in the main thread of a process of its own."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    run_until(stopped, [destination_of(one) for one in settings.destination], spool)


def run_until(stopped: threading.Event, destinations: Sequence[Destination], spool: Spool) -> None:
    """Deliver to all destinations until `stopped` is set, then wait for the objects under way, but not for long."""
    threads = [
        threading.Thread(target=deliver_until, args=(spool, one, stopped), name=f"deliver {one.name}", daemon=True)
        for one in destinations
    ]
    for thread in threads:
        thread.start()
    stopped.wait()
    for thread in threads:
        thread.join(END_SECONDS)
