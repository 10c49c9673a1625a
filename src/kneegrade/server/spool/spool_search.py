"""`find_films`: films of a spool by what their headers state. The index has no patient data, so the files are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kneegrade.errors import KneeGradeError
from kneegrade.imaging import read_dicom_elements
from kneegrade.server.spool.film_spool import FilmRow, Spool
from kneegrade.server.spool.spool_schema import FilmState

_ACCESSION, _PATIENT, _INSTANCE = "00080050", "00100020", "00080018"
_REQUESTS: Final = "00400275"  # Request Attributes Sequence, whose items may have accession numbers of their own
PAGE: Final = 500


@dataclass(frozen=True, repr=False)
class Wanted:
    """What the header of a film must state; None: anything. It has no `repr`, as it may name a patient.

    Attributes:
        accession: Accession Number.
        patient: Patient ID.
        uid: beginning of the SOP Instance UID.
    """

    accession: str | None = None
    patient: str | None = None
    uid: str | None = None

    @property
    def is_anything(self) -> bool:
        """Whether every film fits."""
        return (self.accession, self.patient, self.uid) == (None, None, None)


def find_films(spool: Spool, wanted: Wanted, state: FilmState | None, limit: int) -> Iterator[FilmRow]:
    """The films that fit, the last received first.

    Args:
        spool: to search.
        wanted: what their headers must state.
        state: of the films; None: any.
        limit: highest number of films.
    """
    before, found = None, 0
    while rows := spool.films(state=state, limit=PAGE if not wanted.is_anything else limit, before=before):
        for row in rows:
            if wanted.is_anything or _fits(row, wanted):
                yield row
                found += 1
                if found == limit:
                    return
        before = rows[-1].key


def _fits(row: FilmRow, wanted: Wanted) -> bool:
    if wanted.uid is not None and row.sop_instance_uid is not None and not row.sop_instance_uid.startswith(wanted.uid):
        return False
    if wanted.accession is None and wanted.patient is None and row.sop_instance_uid is not None:
        return True
    if row.kind != "dicom":
        return False
    try:
        elements = read_dicom_elements(row.path, "film")["elements"]
    except KneeGradeError:
        return False  # a dead film that is no DICOM file, or one that was purged meanwhile
    requests = elements.get(_REQUESTS, {}).get("Value") or []
    accessions = {_text(elements, _ACCESSION), *(_text(item, _ACCESSION) for item in requests)}
    return (
        (wanted.accession is None or wanted.accession in accessions)
        and (wanted.patient is None or wanted.patient == _text(elements, _PATIENT))
        and (wanted.uid is None or (_text(elements, _INSTANCE) or "").startswith(wanted.uid))
    )


def _text(elements: Mapping[str, Any], tag: str) -> str | None:
    values = elements.get(tag, {}).get("Value") or [None]
    return None if values[0] is None else str(values[0]).strip()
