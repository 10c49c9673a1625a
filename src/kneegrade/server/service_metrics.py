"""`Metrics`: the state of the service for Prometheus. No label holds a key, a sender or anything of a film."""

import os
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kneegrade.server.spool.film_spool import Spool
from kneegrade.server.spool.spool_schema import DELIVERY_STATES, FILM_STATES
from kneegrade.version import __version__

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST
_BYTES: Final = tuple(float(1 << power) for power in range(16, 31, 2))
_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Metrics:
    """Counters of this process, and the states of the spool at the time of the question.

    Args:
        spool: to look at.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._registry = registry = CollectorRegistry()
        self._films = Gauge("kneegrade_films", "Films in the spool by state.", ["state"], registry=registry)
        self._deliveries = Gauge("kneegrade_deliveries", "Deliveries by state.", ["state"], registry=registry)
        self._free = Gauge("kneegrade_spool_free_bytes", "Free space on the disk of the spool.", registry=registry)
        self._received = Counter(
            "kneegrade_rest_films", "Films sent to the REST service by outcome.", ["outcome"], registry=registry
        )
        self._bytes = Histogram(
            "kneegrade_rest_film_bytes", "Size of the films accepted by the REST service.", buckets=_BYTES,
            registry=registry,
        )  # fmt: skip
        self._requests = Histogram(
            "kneegrade_rest_request_seconds", "Time of requests by route and status.", ["method", "route", "status"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        version = Gauge("kneegrade_build_info", "Version of kneegrade.", ["version"], registry=registry)
        version.labels(__version__).set(1)

    def accepted(self, size: int) -> None:
        """Count a film that was accepted.

        Args:
            size: in bytes.
        """
        self._received.labels("accepted").inc()
        self._bytes.observe(size)

    def refused(self) -> None:
        """Count a film that was refused."""
        self._received.labels("refused").inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: of a known route.
            route: its pattern, without values.
            status: of the answer.
            seconds: that it took.
        """
        self._requests.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        counts = self._spool.counts()
        for state in FILM_STATES:
            self._films.labels(state).set(counts["films"].get(state, 0))
        for delivery_state in DELIVERY_STATES:
            self._deliveries.labels(delivery_state).set(counts["deliveries"].get(delivery_state, 0))
        disk = os.statvfs(self._spool.directory)
        self._free.set(disk.f_bavail * disk.f_frsize)
        return generate_latest(self._registry)
