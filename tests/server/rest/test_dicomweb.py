"""STOW-RS, asked by dicomweb-client and by hand-made bodies."""

import asyncio
import io

import pydicom
import pytest
from served import EXAMPLES, folder_with_settings

from kneegrade.server.rest.dicomweb import Stored, _take
from kneegrade.server.rest.film_body import SpoolFile
from kneegrade.server.rest.film_gate import FilmGate
from kneegrade.server.rest.tokens import Caller
from kneegrade.server.service_metrics import Metrics
from kneegrade.server.spool.film_spool import Spool

DICOMWEB = pytest.importorskip("dicomweb_client", reason='needs pip install "kneegrade[dicom]"')
HEADERS = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=abc'}


def body(*parts, media_type=b"application/dicom"):
    return b"".join(b"--abc\r\nContent-Type: %s\r\n\r\n%s\r\n" % (media_type, part) for part in parts) + b"--abc--\r\n"


def changed(film, **elements):
    dataset = pydicom.dcmread(io.BytesIO(film))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if "SOPClassUID" in elements:
        dataset.file_meta.MediaStorageSOPClassUID = elements["SOPClassUID"]
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_a_client_stores_films_which_are_the_same_bytes_in_the_spool(rest):
    films = [pydicom.dcmread(path) for path in sorted(EXAMPLES.glob("*.dcm"))]
    client = DICOMWEB.DICOMwebClient(
        url=f"{rest.url}/dicomweb", headers={"Authorization": f"Bearer {rest.tokens['send']}"}
    )
    answer = client.store_instances(films)
    stored = {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence}
    assert stored == {film.SOPInstanceUID for film in films}
    assert "FailedSOPSequence" not in answer
    with rest.client() as reader:
        newest = reader.get("/v1/films", params={"limit": len(films)}).json()
    for state in newest:
        assert state["sender"] == "send"
        path = rest.settings.spool.directory / "films" / f"{state['key']}.dcm"
        assert pydicom.dcmread(path).SOPInstanceUID in stored


@pytest.mark.parametrize(
    ("parts", "status", "reasons"),
    [
        (["film"], 200, []), (["film", "no film"], 202, [0xC000]), (["no film"], 409, [0xC000]),
        (["report"], 409, [0x0122]), (["other study"], 409, [0xA900]), (["film", "report", "other study"], 202,
         [0x0122, 0xA900]),
    ],
)  # fmt: skip
def test_each_instance_has_its_answer(parts, status, reasons, rest, film):
    dataset = pydicom.dcmread(io.BytesIO(film))
    contents = {
        "film": film, "no film": b"no film",
        "report": changed(film, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34"),
        "other study": changed(film, StudyInstanceUID="2.25.1"),
    }  # fmt: skip
    with rest.client("send") as client:
        path = f"/dicomweb/studies/{dataset.StudyInstanceUID}"
        answer = client.post(path, content=body(*[contents[part] for part in parts]), headers=HEADERS)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/dicom+json"
    result = pydicom.Dataset.from_json(answer.text)
    assert [item.FailureReason for item in result.get("FailedSOPSequence", [])] == reasons
    assert len(result.get("ReferencedSOPSequence", [])) == parts.count("film")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", HEADERS, 422), (b"--abc--\r\n", HEADERS, 422), (b"--abc\r\n\r\nx", HEADERS, 422),
        (body(b"x"), {"Content-Type": "multipart/related"}, 422),
        (body(b"x"), {"Content-Type": 'multipart/related; type="text/plain"; boundary=abc'}, 415),
        (body(b"x"), {"Content-Type": "multipart/form-data; boundary=abc"}, 415),
        (body(b"x"), {"Content-Type": "application/dicom"}, 415), (body(*[b"x"] * 101), HEADERS, 413),
        (body(b"x", media_type=b"text/plain"), HEADERS, 409),
    ],
)  # fmt: skip
def test_a_body_that_is_not_a_set_of_instances_is_refused(content, headers, status, rest):
    files = rest.spool_files
    with rest.client() as client:
        assert client.post("/dicomweb/studies", content=content, headers=headers).status_code == status
    assert rest.spool_files == files


def test_a_study_is_a_uid(rest, film):
    with rest.client() as client:
        assert client.post("/dicomweb/studies/..%2fx", content=body(film), headers=HEADERS).status_code in (404, 422)


def test_every_film_of_a_request_needs_room(tmp_path, film):
    settings, _ = folder_with_settings(tmp_path, "waiting_films = 2\n")
    spool, done = Spool(tmp_path / "spool", min_free_bytes=0), Stored()
    gate = FilmGate(spool, settings.rest, Metrics(spool))

    async def store():
        await gate.check_room()
        for number in range(4):
            async with SpoolFile(spool) as file:
                await file.write(film + b"\0" * number)
                await file.close()
                await _take(gate, file, Caller("send", frozenset({"send"})), None, done)

    asyncio.run(store())
    number = spool.counts()["films"]["received"]
    spool.close()
    assert (number, len(done.stored), [reason for *_, reason in done.failed]) == (2, 2, [0xA700] * 2)
