"""`kneegrade grade --format sr` and `kneegrade sr read`: files, reasons, and no identity anywhere else."""

import json
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from kneegrade.imaging.dicom.header_keywords import IDENTITY, IMAGE

EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS = ("PatientComments", "OperatorsName", "PerformingPhysicianName", "InstitutionAddress", "PatientAddress",
          "RequestingPhysician", "ImageComments", "DeviceSerialNumber", "AdditionalPatientHistory")  # fmt: skip
TEXTS = [
    keyword
    for keyword in (*IDENTITY, *IMAGE, *OTHERS)
    if dictionary_VR(keyword) in ("LO", "PN", "SH", "LT", "ST") and not keyword.startswith("Pixel")
]


def with_canaries(dataset: Dataset) -> list[str]:
    """Write a canary into each text of the header; return them all, with the UIDs and dates."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    canaries = []
    for number, keyword in enumerate(TEXTS):
        canaries.append(f"CANARY{number:02d}")
        setattr(dataset, keyword, canaries[-1])
    dataset.PatientBirthDate, dataset.StudyDate = "19110907", "20180817"
    item = Dataset()
    item.PatientID = "CANARYNESTED"
    dataset.OtherPatientIDsSequence = [item]
    dataset.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "CANARYPRIVATE")
    uids = [str(dataset[f"{level}InstanceUID"].value) for level in ("Study", "Series", "SOP")]
    return [*canaries, "CANARY", "19110907", "1911-09-07", "20180817", *uids]


@pytest.fixture(scope="module")
def graded(kneegrade, tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path, list[str]]:
    pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')
    folder = tmp_path_factory.mktemp("films")
    dataset = pydicom.dcmread(EXAMPLES / "bilateral.dcm")
    canaries = with_canaries(dataset)
    dataset.save_as(folder / "film.dcm")
    dataset.SeriesInstanceUID = ""
    dataset.save_as(folder / "no_series.dcm")
    shutil.copy(EXAMPLES / "single_right.dcm", folder)
    output = folder / "results"  # in the folder of the films: a second run must not take the objects for films
    done = kneegrade("grade", folder, "--output", output, "--format", "json,html,csv,sr")
    return done, output, canaries


def test_each_film_has_its_objects_or_a_reason(graded) -> None:
    done, output, _ = graded
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (output / "dicom").iterdir()) == ["film.sr.dcm", "single_right.sr.dcm"]
    report = json.loads((output / "report.json").read_text())
    warnings = {film["source"]: [one["code"] for one in film["warnings"]] for film in report["radiographs"]}
    assert "no_identity" in warnings["no_series.dcm"]
    assert "no_identity" not in warnings["film.dcm"]
    assert f"Wrote 2 files to {output / 'dicom'}" in done.stdout
    assert "no_series.dcm: No DICOM or FHIR object was written for this film." in done.stdout


def test_the_grades_are_read_back_as_in_the_report(graded, kneegrade_here) -> None:
    _, output, _ = graded
    films = [output / "dicom" / f"{name}.sr.dcm" for name in ("film", "single_right")]
    done = kneegrade_here("sr", "read", *films)
    assert done.returncode == 0
    read = json.loads(done.stdout)["radiographs"]
    report = json.loads((output / "report.json").read_text())
    by_name = {film["source"]: film for film in report["radiographs"]}
    assert [film["source"] for film in read] == ["film.sr.dcm", "single_right.sr.dcm"]
    for film in read:
        knees = by_name[film["source"].replace(".sr.dcm", ".dcm")]["knees"]
        for knee, wanted in zip(film["knees"], knees, strict=True):
            for grade in wanted["grades"].values():
                del grade["evidence"]
            for key in ("side", "status", "reason", "abstain", "quality", "grades", "joint_space_width_mm"):
                assert knee[key] == wanted[key]


def test_no_identity_is_outside_the_dicom_objects(graded) -> None:
    done, output, canaries = graded
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    for path in output.rglob("*"):
        texts[f"name of {path.name}"] = path.name
        if path.is_file() and path.parent.name != "dicom":
            texts[path.name] = path.read_text(encoding="utf-8")
    assert {"report.json", "report.html", "grades.csv"} <= texts.keys()
    assert [(name, canary) for name, text in texts.items() for canary in canaries if canary in text] == []
    made = pydicom.dcmread(output / "dicom" / "film.sr.dcm")
    assert str(made.PatientID).startswith("CANARY")  # so that the check could fail


def test_a_second_run_reads_no_object_as_a_film(graded) -> None:
    from kneegrade.imaging import find_sources

    _, output, _ = graded
    names = [source.name for source in find_sources([output.parent])]
    assert names == ["film.dcm", "no_series.dcm", "single_right.dcm"]


def test_another_file_than_a_report_of_kneegrade_is_a_usage_error(kneegrade_here) -> None:
    done = kneegrade_here("sr", "read", EXAMPLES / "bilateral.dcm")
    assert done.returncode == 2
    assert done.stderr == "kneegrade: bilateral.dcm: The DICOM file is an image; expected a structured report.\n"


def test_the_help_names_every_format(kneegrade_here) -> None:
    from kneegrade.clinical import OBJECT_FORMATS
    from kneegrade.reporting import FORMATS

    text = kneegrade_here("grade", "--help").stdout
    assert all(f" {name}" in text for name in (*FORMATS, *OBJECT_FORMATS))
