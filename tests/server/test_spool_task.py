"""Films of the spool, graded by the real grader."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from served import EXAMPLES

from kneegrade.clinical import read_sr
from kneegrade.grader import Grader
from kneegrade.server.spool.film_spool import Spool, SpoolError
from kneegrade.server.spool_task import write_results

OBJECTS = ("sr", "gsps", "sc", "fhir")
FILES = ("fhir.json", "grades.csv", "gsps.dcm", "report.html", "report.json", "sc.dcm", "sr.dcm")


@pytest.fixture(scope="module")
def grader():
    return Grader(device="cpu")


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool", min_free_bytes=0, clock=lambda: 1_700_000_000.25)
    yield made
    made.close()


def claimed(spool, content, kind="dicom"):
    stream, path = spool.temporary_file()
    with stream:
        stream.write(content)
    spool.accept(path, kind=kind, sop_instance_uid=None, sender="test")
    return spool.claim()


def test_graded_again_a_film_gives_the_same_bytes(grader, spool, film, tmp_path):
    one = claimed(spool, film)
    assert write_results(grader, spool, one, OBJECTS, "Clinic").files == FILES
    first = {path.name: path.read_bytes() for path in spool.results(one.key).iterdir()}
    shutil.rmtree(spool.results(one.key))
    assert write_results(grader, spool, one, OBJECTS, "Clinic").files == FILES
    assert {path.name: path.read_bytes() for path in spool.results(one.key).iterdir()} == first
    report = json.loads(first["report.json"])
    assert report["radiographs"][0]["source"] == f"{one.key}.dcm"
    sc = pydicom.dcmread(spool.results(one.key) / "sc.dcm")
    assert sc.InstitutionName == "Clinic"
    read = read_sr(spool.results(one.key) / "sr.dcm")
    grade = report["radiographs"][0]["knees"][0]["grades"]["kl"]["grade"]
    assert json.dumps(grade) in json.dumps(read, default=lambda value: getattr(value, "__dict__", str(value)))
    assert spool.results(one.key).stat().st_mode & 0o777 == 0o700


def test_an_object_of_kneegrade_is_no_film_even_when_an_archive_wrote_the_file(grader, spool, film, tmp_path):
    one = claimed(spool, film)
    write_results(grader, spool, one, ("sc",))
    spool.finish(one.key, deliveries={})
    by_archive = pydicom.dcmread(spool.results(one.key) / "sc.dcm")
    by_archive.file_meta.ImplementationClassUID = "1.2.3"
    by_archive.save_as(tmp_path / "sc.dcm")
    for path in (spool.results(one.key) / "sc.dcm", tmp_path / "sc.dcm"):
        own = claimed(spool, path.read_bytes())
        outcome = write_results(grader, spool, own, OBJECTS)
        assert outcome.problem.startswith("own_picture: ")
        assert outcome.is_final
        assert not spool.results(own.key).exists()


@pytest.mark.parametrize(("content", "code"), [(b"no film", "format"), (b"PK\x03\x04", "format")])
def test_a_file_that_is_no_film_is_not_tried_again(content, code, grader, spool):
    outcome = write_results(grader, spool, claimed(spool, content), OBJECTS)
    assert outcome.problem.partition(":")[0] == code
    assert (outcome.is_final, outcome.files) == (True, ())


def test_a_picture_has_reports_but_no_objects_and_no_warning_about_them(grader, spool, tmp_path):
    from PIL import Image

    pixels = pydicom.dcmread(EXAMPLES / "single_right.dcm").pixel_array
    Image.fromarray((pixels / pixels.max() * 255).astype("uint8")).save(tmp_path / "film.png")
    one = claimed(spool, (tmp_path / "film.png").read_bytes(), "png")
    assert write_results(grader, spool, one, OBJECTS).files == ("grades.csv", "report.html", "report.json")
    report = json.loads((spool.results(one.key) / "report.json").read_text())
    assert "No DICOM" not in json.dumps(report)


def test_results_that_cannot_be_written_leave_none(grader, spool, film, monkeypatch):
    one = claimed(spool, film)
    monkeypatch.setattr(Path, "write_bytes", _no_space)
    with pytest.raises(SpoolError):
        write_results(grader, spool, one, OBJECTS)
    assert not spool.results(one.key).exists()
    assert list((spool.directory / "tmp").iterdir()) == []


def _no_space(path, content):
    raise OSError(28, "No space left on device")
