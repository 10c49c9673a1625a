"""Files of derived objects: their names, and the reasons why films get none."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clinical_films import JOB, VARIANTS, ClinicalVariant, PhantomPair, having, without
from PIL import Image

from kneegrade.clinical import OBJECT_FORMATS, ObjectWriter, film_objects, object_files, read_sr
from kneegrade.errors import UsageError
from kneegrade.imaging import Source, find_sources
from kneegrade.results import Finding, GradedRadiograph

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

PLAIN = VARIANTS[0]


@pytest.fixture
def folder(tmp_path: Path, pair: PhantomPair) -> Path:
    """A film in two folders, the same film without UIDs, a picture and a damaged file."""
    films = tmp_path / "films"
    (films / "b").mkdir(parents=True)
    content = PLAIN.file(pair)
    (films / "film.dcm").write_bytes(content)
    (films / "b" / "film.dcm").write_bytes(content)
    (films / "no_uid.dcm").write_bytes(ClinicalVariant("", without("StudyInstanceUID")).file(pair))
    (films / "film.dicom").write_bytes(content)
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(films / "picture.png")
    return films


def test_each_dicom_film_gets_its_file_and_the_others_a_reason(folder: Path, pair: PhantomPair, tmp_path: Path) -> None:
    write = ObjectWriter(tmp_path / "out", ["sr"], JOB)
    films = [write(source, replace(pair.film, source=source.name)) for source in find_sources([folder])]
    names = [path.relative_to(tmp_path / "out").as_posix() for path in write.paths]
    assert names == ["dicom/film.sr.dcm", "dicom/film.dicom.sr.dcm", "dicom/b/film.sr.dcm"]
    assert all(path.is_file() for path in write.paths)
    assert [(name, reason.code) for name, reason in write.missing] == [
        ("no_uid.dcm", "no_identity"), ("picture.png", "not_dicom"),
    ]  # fmt: skip
    warned = {film.source: film.warnings[-1].code for film in films}
    assert (warned["no_uid.dcm"], warned["picture.png"], warned["film.dcm"]) == (
        "no_identity", "not_dicom", "magnification_uncorrected",
    )  # fmt: skip


def test_a_film_that_could_not_be_read_gets_no_second_reason(folder: Path, tmp_path: Path) -> None:
    (source,) = find_sources([folder / "picture.png"])
    failed = GradedRadiograph("picture.png", reason=Finding("damaged", "Damaged."), failed=True)
    write = ObjectWriter(tmp_path, ["sr"], JOB)
    assert write(source, failed) == failed
    assert (write.paths, write.missing) == ([], [])


def test_with_full_names_the_name_of_a_file_depends_on_its_film_alone(pair: PhantomPair, tmp_path: Path) -> None:
    content = PLAIN.file(pair)
    for name in ("film.dcm", "film.dicom"):
        write = ObjectWriter(tmp_path, ["fhir"], JOB, full_names=True)
        write(Source(name, load=lambda: content), replace(pair.film, source=name))
    assert sorted(path.name for path in (tmp_path / "fhir").iterdir()) == ["film.dcm.fhir.json", "film.dicom.fhir.json"]


def test_a_file_that_changed_since_grading_gets_no_objects(pair: PhantomPair) -> None:
    content = PLAIN.file(pair)
    objects, reasons = film_objects(replace(pair.film, sha256="0" * 64), content, JOB, ["sr"])
    assert (objects, [reason.code for reason in reasons]) == ({}, ["file_changed"])


def test_an_error_in_a_writer_does_not_end_the_run_and_shows_no_text(
    pair: PhantomPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(film) -> bytes:
        raise ValueError(str(film.header.identity.PatientName))

    broken = {"sr": replace(OBJECT_FORMATS["sr"], content=fails)}
    monkeypatch.setattr(object_files, "OBJECT_FORMATS", broken)
    objects, reasons = film_objects(pair.film, PLAIN.file(pair), JOB, ["sr"])
    assert (objects, [reason.code for reason in reasons]) == ({}, ["internal"])
    assert "PHANTOM" not in reasons[0].message


def test_the_bytes_of_a_film_are_its_structured_report(pair: PhantomPair) -> None:
    objects, reasons = film_objects(pair.film, PLAIN.file(pair), JOB, ["sr"])
    assert reasons == ()
    assert len(read_sr(objects["sr"])["knees"]) == 2


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="'pdf' is unknown"):
        ObjectWriter(Path("unused"), ["pdf"], JOB)


def test_without_highdicom_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"kneegrade\[dicom\]"):
        ObjectWriter(Path("unused"), ["sr"], JOB)


def test_attributes_that_are_left_out_are_named_in_the_report_and_in_the_structured_report(
    pair: PhantomPair, tmp_path: Path
) -> None:
    content = ClinicalVariant("", having(PatientSex="W")).file(pair)
    write = ObjectWriter(tmp_path, ["sr"], JOB)
    film = write(Source("film.dcm", load=lambda: content), replace(pair.film, source="film.dcm"))
    assert film.warnings[-1].code == "attributes_withheld"
    assert "lack PatientSex: " in film.warnings[-1].message
    assert write.missing == [("film.dcm", film.warnings[-1])]
    read = read_sr(tmp_path / "dicom" / "film.sr.dcm")
    assert [warning["code"] for warning in read["warnings"]] == [warning.code for warning in film.warnings]
