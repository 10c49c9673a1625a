"""Films are found by their headers, which the spool's index does not hold."""

import io
from pathlib import Path

import pydicom
import pytest

from kneegrade.server.spool.film_spool import Spool
from kneegrade.server.spool.spool_search import Wanted, find_films

EXAMPLE = Path(__file__).parents[3] / "examples" / "bilateral.dcm"


@pytest.fixture(scope="module")
def spool(tmp_path_factory):
    """Films of two patients by DICOM and REST, one whose number is that of its request, and two that are no DICOM."""
    spool = Spool(tmp_path_factory.mktemp("spool"), min_free_bytes=0)
    for number, (uid, patient, accession, requested, via) in enumerate((
        ("1.2.3.1", "P1", "A1", "", "node"), ("1.2.3.2", "P1", "A2", "", "rest"), ("1.2.4.1", "P2", "", "A1", "node"),
    )):  # fmt: skip
        film = pydicom.dcmread(EXAMPLE)
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = uid
        film.PatientID, film.AccessionNumber = patient, accession
        if requested:
            film.RequestAttributesSequence = [pydicom.Dataset()]
            film.RequestAttributesSequence[0].AccessionNumber = requested
        content = io.BytesIO()
        film.save_as(content, enforce_file_format=True)
        put(spool, content.getvalue(), uid if via == "node" else None, f"{number}")
    put(spool, b"no DICOM", None, "3")
    put(spool, b"\x89PNG\r\n\x1a\n", None, "4", "png")
    yield spool
    spool.close()


def put(spool, content, uid, sender, kind="dicom"):
    stream, path = spool.temporary_file()
    with stream:
        stream.write(content)
    spool.accept(path, kind=kind, sop_instance_uid=uid, sender=sender)


@pytest.mark.parametrize(
    ("wanted", "senders"),
    [
        (Wanted(), "01234"), (Wanted(accession="A1"), "02"), (Wanted(accession="A2"), "1"), (Wanted(accession="A"), ""),
        (Wanted(patient="P1"), "01"), (Wanted(patient="P1", accession="A1"), "0"), (Wanted(uid="1.2.3."), "01"),
        (Wanted(uid="1.2.4"), "2"), (Wanted(uid="1.2.3.2", patient="P1"), "1"), (Wanted(uid="9"), ""),
    ],
    ids=lambda one: "" if isinstance(one, str) else str([one.accession, one.patient, one.uid]),
)  # fmt: skip
def test_films_are_found_by_what_their_headers_state(wanted, senders, spool):
    assert sorted(film.sender for film in find_films(spool, wanted, None, 50)) == [*senders]


def test_the_limit_counts_what_fits(spool):
    assert [film.sender for film in find_films(spool, Wanted(patient="P1"), "received", 1)] == ["1"]
    assert list(find_films(spool, Wanted(patient="P1"), "dead", 5)) == []
