"""`purge_films`: removes old films from a spool, and enters in the audit log which ones and for whom."""

from collections.abc import Sequence
from typing import Final

from kneegrade.server.audit_log import AUDIT_FILE, AuditLog
from kneegrade.server.spool.film_spool import Spool, SpoolError

DAY_SECONDS: Final = 86400.0


def purge_films(spool: Spool, *, days: float, by: str, force: bool = False) -> int:
    """The number of films that were removed with their results; the audit log has their keys.

    Args:
        spool: with the films.
        days: since they were graded or given up; with `force` also since they were received.
        by: name of the user, or "retention".
        force: see `Spool.purge`.

    Raises:
        SpoolError: the spool cannot be written; or the audit log, and the films are removed all the same.
    """
    audit, problems = AuditLog(spool.directory / AUDIT_FILE), list[SpoolError]()

    def enter(keys: Sequence[str]) -> None:
        try:
            audit.write("films_removed", number=len(keys), films=keys, by=by, days=days, force=force)
        except SpoolError as error:  # the other films are removed all the same
            problems.append(error)

    removed = spool.purge(older_than_seconds=days * DAY_SECONDS, force=force, on_removal=enter)
    if problems:
        raise problems[0]
    return removed
