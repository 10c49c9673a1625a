"""`FilmGate`: films from requests → the spool, if it has room; counted, and written into log and audit log."""

import asyncio
import logging
import time

from fastapi import Request

from kneegrade.server.audit_log import AUDIT_FILE, AuditLog
from kneegrade.server.rest.film_body import SpoolFile, body_chunks, check_headers, kind_of
from kneegrade.server.rest.problem import Refusal
from kneegrade.server.service_metrics import Metrics
from kneegrade.server.settings import RestSettings
from kneegrade.server.spool.film_spool import Accepted, Spool

_log = logging.getLogger(__name__)


class FilmGate:
    """Takes films from requests into the spool.

    Args:
        spool: for the films.
        settings: limits.
        metrics: to count in.
    """

    def __init__(self, spool: Spool, settings: RestSettings, metrics: Metrics) -> None:
        self.spool, self.metrics = spool, metrics
        self.max_bytes, self.seconds = settings.film_mib << 20, settings.body_seconds
        self._max_waiting = settings.waiting_films
        self._waiting, self._looked = 0, 0.0
        self._audit = AuditLog(spool.directory / AUDIT_FILE)

    async def check_room(self) -> None:
        """Check that the spool takes films.

        Raises:
            Refusal: 507 if its disk is full, 503 if too many films wait.
        """
        if await asyncio.to_thread(self.spool.is_full):
            raise Refusal(507, headers={"Retry-After": "30"})
        if time.monotonic() - self._looked > 1:
            self._waiting = (await asyncio.to_thread(self.spool.counts))["films"]["received"]
            self._looked = time.monotonic()
        if self._waiting >= self._max_waiting:
            raise Refusal(503, "Too many films are waiting; send this one again later.", {"Retry-After": "30"})
        self._waiting += 1

    async def receive(self, request: Request, sender: str) -> str:
        """The key of the film in the body of a request."""
        media_type = check_headers(request, self.max_bytes)
        await self.check_room()
        async with SpoolFile(self.spool) as file:
            async for chunk in body_chunks(request, max_bytes=self.max_bytes, seconds=self.seconds):
                await file.write(chunk)
            if file.size == 0:
                raise Refusal(411, "The body is empty; send the bytes of a film.")
            accepted = await file.accept(kind_of(media_type, file.start), None, sender)
        await self.enter(accepted, sender, file.size, "rest")
        return accepted.key

    async def enter(self, film: Accepted, sender: str, size: int, via: str) -> None:
        """Count an accepted film, and write it into log and audit log."""
        self.metrics.accepted(size)
        _log.info("Accepted the film %s (%d bytes) from %s by %s.", film.key, size, sender, via)
        await asyncio.to_thread(
            self._audit.write, "film_received", film=film.key, is_new=film.is_new, sender=sender, via=via
        )
