"""Derived objects in a real archive: stored three times over both protocols, one instance, the same bytes."""

import io
import json
from collections.abc import Iterator

import pydicom
import pytest
from archive import AE_TITLE, Archive, needs_orthanc, running_archive
from clinical_films import JOB, VARIANTS, PhantomPair

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')
pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from dicomweb_client.api import DICOMwebClient
from pynetdicom import AE

from kneegrade.clinical import OBJECT_FORMATS, film_objects, read_sr

pytestmark = needs_orthanc


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with running_archive(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def objects(pair: PhantomPair) -> dict[str, bytes]:
    """The film and its DICOM objects as files."""
    content = VARIANTS[0].file(pair)
    formats = [name for name, one in OBJECT_FORMATS.items() if one.ending.endswith(".dcm")]
    made, reasons = film_objects(pair.film, content, JOB, formats)
    assert reasons == ()
    return {"film": content, **made}


def c_store(archive: Archive, datasets: list[pydicom.Dataset]) -> list[int]:
    """Status of each C-STORE."""
    entity = AE("KNEEGRADE")
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", archive.dicom_port, ae_title=AE_TITLE)
    try:
        return [association.send_c_store(dataset).Status for dataset in datasets]
    finally:
        association.release()


def test_stored_three_times_there_is_one_instance_with_the_same_bytes(
    archive: Archive, objects: dict[str, bytes]
) -> None:
    datasets = [pydicom.dcmread(io.BytesIO(content)) for content in objects.values()]
    web = DICOMwebClient(f"{archive.url}/dicom-web")
    assert c_store(archive, datasets) == [0] * len(datasets)
    assert c_store(archive, datasets) == [0] * len(datasets)
    answer = web.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == len(datasets)
    assert not answer.get("FailedSOPSequence")
    statistics = json.loads(archive.get("/statistics"))
    assert (statistics["CountInstances"], statistics["CountStudies"]) == (len(datasets), 1)
    for name, dataset in zip(objects, datasets, strict=True):
        uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        back = web.retrieve_instance(*uids)
        assert back == dataset, name
        stream = io.BytesIO()
        back.save_as(stream, enforce_file_format=True)
        assert _data_set(stream.getvalue()) == _data_set(objects[name]), name


def _data_set(content: bytes) -> bytes:
    """The bytes of the data set, without the file meta group, which the archive writes anew."""
    stream = io.BytesIO(content)
    pydicom.filereader.read_preamble(stream, force=False)
    pydicom.filereader._read_file_meta_info(stream)
    return content[stream.tell() :]


def test_grades_are_read_from_the_report_in_the_archive(
    archive: Archive, objects: dict[str, bytes], pair: PhantomPair
) -> None:
    report = pydicom.dcmread(io.BytesIO(objects["sr"]))
    c_store(archive, [report])
    (found,) = json.loads(archive.get(f"/dicom-web/studies/{report.StudyInstanceUID}/instances?Modality=SR"))
    assert found["00080018"]["Value"] == [report.SOPInstanceUID]
    web = DICOMwebClient(f"{archive.url}/dicom-web")
    back = web.retrieve_instance(report.StudyInstanceUID, report.SeriesInstanceUID, report.SOPInstanceUID)
    assert read_sr(back) == read_sr(objects["sr"])
