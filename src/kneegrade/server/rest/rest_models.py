"""What the REST service answers: `FilmState` and `DeliveryState`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from kneegrade.server.spool.film_spool import DeliveryRow, FilmRow, Spool

RESULTS: Final = {
    "report.json": "application/json",
    "report.html": "text/html; charset=utf-8",
    "grades.csv": "text/csv; charset=utf-8",
    "fhir.json": "application/fhir+json",
    "sr.dcm": "application/dicom",
    "gsps.dcm": "application/dicom",
    "sc.dcm": "application/dicom",
}
ResultName = Literal["report.json", "report.html", "grades.csv", "fhir.json", "sr.dcm", "gsps.dcm", "sc.dcm"]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
State = Literal["received", "working", "graded", "dead"]


class DeliveryState(BaseModel):
    """An object of a film at a destination.

    Attributes:
        destination: its name in serve.toml.
        object: name of the result.
        state: "due", "sent" or "dead" (given up).
        attempts: made so far.
        reason: why the last attempt failed.
    """

    model_config = ConfigDict(extra="forbid")

    destination: str
    object: str
    state: Literal["due", "sent", "dead"]
    attempts: int
    reason: str | None = None


class FilmState(BaseModel):
    """A film in the spool.

    Attributes:
        key: of the film: 40 hexadecimal digits. The same bytes have the same key.
        state: "received", "working", "graded" or "dead" (cannot be graded).
        kind: "dicom", "png", "jpeg" or "tiff".
        sender: name of the token, or AE title.
        received: when it was accepted.
        finished: when it was graded or given up.
        attempts: how often grading was begun.
        reason: why the last attempt failed.
        results: names of the results that can be fetched.
        deliveries: of the results; only where one film was asked for.
    """

    model_config = ConfigDict(extra="forbid")

    key: Key
    state: State
    kind: Literal["dicom", "png", "jpeg", "tiff"]
    sender: str
    received: datetime
    finished: datetime | None = None
    attempts: int
    reason: str | None = None
    results: list[ResultName] = []
    deliveries: list[DeliveryState] | None = None

    @classmethod
    def of(cls, film: FilmRow, spool: Spool, deliveries: Sequence[DeliveryRow] | None = None) -> "FilmState":
        """The state of a row of the spool."""
        return cls(
            key=film.key, state=film.state, kind=film.kind, sender=film.sender, received=_moment(film.received),
            finished=None if film.finished is None else _moment(film.finished), attempts=film.attempts,
            reason=film.reason, results=_results(spool.results(film.key)) if film.state == "graded" else [],
            deliveries=None if deliveries is None else [_delivery(one) for one in deliveries],
        )  # fmt: skip


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _results(folder: Path) -> list[ResultName]:
    names: tuple[ResultName, ...] = (
        "report.json", "report.html", "grades.csv", "fhir.json", "sr.dcm", "gsps.dcm", "sc.dcm"
    )  # fmt: skip
    return [name for name in names if (folder / name).is_file()]


def _delivery(row: DeliveryRow) -> DeliveryState:
    return DeliveryState(
        destination=row.destination, object=row.object, state=row.state, attempts=row.attempts, reason=row.reason
    )
