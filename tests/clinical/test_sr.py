# ruff: noqa: E402
"""Structured reports: valid, readable without loss, the same bytes for the same job."""

import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinical_films import JOB, LONG_NAME, VARIANTS, ClinicalVariant, PhantomPair, report_of
from iod_check import iod_problems, needs_dciodvfy
from object_digests import digests

highdicom = pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from kneegrade.clinical import ClinicalFilm, FilmHeader, read_sr
from kneegrade.clinical import codes as c
from kneegrade.clinical.codes import ascii_text
from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.sr import structured_report
from kneegrade.measurements import JointSpace, Measurement
from kneegrade.reporting import to_dict
from kneegrade.results import Coherence, Finding, GradedKnee, GradedRadiograph, GradeResult, Quality
from kneegrade.schema import TARGETS

HERE = Path(__file__).parent
BY_NAME = {variant.name: variant for variant in VARIANTS}


def expected(film: ClinicalFilm) -> dict:
    """The entry of report.json, without the keys that a structured report does not hold."""
    (entry,) = to_dict(report_of(film.film, job=film.job))["radiographs"]
    for key in ("source", "sha256"):
        del entry[key]
    for warning in entry["warnings"]:
        warning["message"] = ascii_text(warning["message"])
    for knee in entry["knees"]:
        for key in ("landmarks_px", "landmark_confidence", "point_confidence", "landmarks_outside", "side_confidence"):
            del knee[key]
        knee["coherence"] = {"findings": knee["coherence"]["findings"] if knee["coherence"] else []}
        if knee["joint_space"]:
            del knee["joint_space"]["fixed"], knee["joint_space"]["tibial_width_px"]
        for grade in (knee["grades"] or {}).values():
            del grade["evidence"]
    return entry


def items(dataset: Dataset, value: str) -> list[Dataset]:
    """All content items below `dataset` whose name has this code value."""
    found = []
    for item in dataset.get("ContentSequence") or ():
        names = item.get("ConceptNameCodeSequence")
        if names and names[0].get("CodeValue") == value:
            found.append(item)
        found += items(item, value)
    return found


@needs_dciodvfy
def test_every_variant_is_valid_and_read_back_as_report_json(
    variant: ClinicalVariant, pair: PhantomPair, tmp_path: Path
) -> None:
    film = variant.film(pair)
    content = file_bytes(structured_report(film))
    assert iod_problems(content, tmp_path) == []
    back = read_sr(content)
    assert back.pop("software")["weights"]["sha256"] == film.job.weights.sha256
    assert back == expected(film)


@needs_dciodvfy
def test_the_name_is_copied_even_if_it_is_too_long(pair: PhantomPair, tmp_path: Path) -> None:
    made = structured_report(LONG_NAME.film(pair))
    assert str(made.PatientName) == "A" * 64 + "^" + "B" * 60
    (problem,) = iod_problems(file_bytes(made), tmp_path)
    assert problem.startswith("Error - </PatientName")


@needs_dciodvfy
@pytest.mark.parametrize("document", ["comprehensive", "enhanced"])
def test_the_other_classes_are_valid_and_have_another_uid(document: str, pair: PhantomPair, tmp_path: Path) -> None:
    film = BY_NAME["plain"].film(pair)
    made = structured_report(film, document=document)
    content = file_bytes(made)
    assert iod_problems(content, tmp_path) == []
    assert read_sr(content)["knees"] == expected(film)["knees"]
    assert made.SOPInstanceUID != film.job.instance_uid("SR", film.header)


def test_highdicom_reads_the_groups_and_the_evidence(pair: PhantomPair, tmp_path: Path) -> None:
    film = BY_NAME["plain"].film(pair)
    (tmp_path / "film.sr.dcm").write_bytes(file_bytes(structured_report(film)))
    read = highdicom.sr.srread(tmp_path / "film.sr.dcm")
    knees = [g for g in read.content.get_image_measurement_groups() if g.finding_type == c.ASSESSMENT]
    outlines = read.content.get_planar_roi_measurement_groups()
    assert [g.tracking_identifier for g in knees] == ["Right knee", "Left knee"]
    assert [g.tracking_identifier for g in outlines] == [
        "Right knee femur", "Right knee tibia", "Left knee femur", "Left knee tibia",
    ]  # fmt: skip
    assert read.get_evidence() == [
        (film.header.study_instance_uid, pair.dataset.SeriesInstanceUID, film.header.sop_instance_uid,
         pair.dataset.SOPClassUID)
    ]  # fmt: skip


def test_coordinates_are_half_a_pixel_more_than_landmarks_and_outside_ones_are_left_out(pair: PhantomPair) -> None:
    made = structured_report(BY_NAME["side_right"].film(pair))
    (femur,) = [
        g for g in items(made, "125007") if items(g, "121071")[0].ConceptCodeSequence[0].CodeValue == "OUTLINE-F"
    ]
    (region,) = items(femur, "111030")
    points = np.reshape(region.GraphicData, (-1, 2))
    landmarks = pair.film.knees[0].landmarks_px[1:37]  # landmark 0 is outside
    np.testing.assert_allclose(points, np.clip(landmarks + 0.5, 0, [640, 444]), atol=1e-3)


def test_every_measurement_has_its_line_on_the_film(pair: PhantomPair) -> None:
    made = structured_report(BY_NAME["no_spacing"].film(pair))
    measured = [item for item in items(made, "125007")[0].ContentSequence if item.ValueType == "NUM"]
    names = [item.ConceptNameCodeSequence[0].CodeValue for item in measured]
    units = [item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for item in measured]
    assert list(zip(names, units, strict=True)) == [
        ("JSW-M-REL", "{ratio}"), ("JSW-L-REL", "{ratio}"), ("JLCA", "deg"),
    ]  # fmt: skip
    assert all(any(child.ValueType == "SCOORD" for child in item.ContentSequence) for item in measured)


def test_the_report_names_software_weights_and_its_contribution(pair: PhantomPair) -> None:
    film = BY_NAME["plain"].film(pair)
    made = structured_report(film)
    (ours,) = [i for i in made.ContributingEquipmentSequence if i.get("ManufacturerModelName") == "kneegrade"]
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (ours.DeviceUID, made.DeviceUID) == (film.job.device_uid, film.job.device_uid)
    assert film.job.weights.sha256 in ours.SoftwareVersions
    assert [item.CodingSchemeDesignator for item in made.CodingSchemeIdentificationSequence] == ["99KNEEGRADE"]
    parameters = {item.TextValue for item in items(made, "111002")}
    assert {"set_level=0.9", f"weights_sha256={film.job.weights.sha256}"} <= parameters
    assert (made.CompletionFlag, made.PreliminaryFlag, made.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip


def test_the_order_of_the_film_is_referenced(pair: PhantomPair) -> None:
    made = structured_report(BY_NAME["request"].film(pair))
    (request,) = made.ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP1", "A1")
    assert items(made, "121058")[0].ConceptCodeSequence[0].CodeValue == "XKNEE2"


@pytest.mark.parametrize(("name", "expected_time"), [("offset_west", "073456"), ("plain", "123456")])
def test_times_are_those_of_the_job_in_the_time_zone_of_the_film(
    name: str, expected_time: str, pair: PhantomPair
) -> None:
    made = structured_report(BY_NAME[name].film(pair))
    for kind in ("Content", "InstanceCreation"):
        moment = f"{made[f'{kind}Date'].value}{made[f'{kind}Time'].value}"
        assert moment == f"20261125{expected_time}"
    contributions = [str(item.get("ContributionDateTime", "")) for item in made.ContributingEquipmentSequence]
    assert contributions == ["", *[f"20261125{expected_time}"] * 2]  # equipment of the film, kneegrade, highdicom


@pytest.mark.parametrize("name", ["latin1", "greek", "japanese", "japanese_half", "korean", "gb18030", "utf8"])
def test_names_keep_their_bytes_and_their_character_set(name: str, pair: PhantomPair) -> None:
    content = BY_NAME[name].file(pair)
    film, made = (
        pydicom.dcmread(BytesIO(data)) for data in (content, file_bytes(structured_report(BY_NAME[name].film(pair))))
    )
    assert made.SpecificCharacterSet == film.SpecificCharacterSet
    assert made.get_item("PatientName").value.rstrip() == film.get_item("PatientName").value.rstrip()


def test_another_process_on_another_day_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    far_east = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7", "PYTHONWARNINGS": "ignore"}
    started = [sys.executable, HERE / "object_digests.py"]
    there = subprocess.run(started, env=far_east, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    monkeypatch.setenv("TZ", "Pacific/Honolulu")  # 24 hours earlier
    time.tzset()
    try:
        assert len(there) == 4
        assert digests() == there
    finally:
        monkeypatch.undo()
        time.tzset()


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=90)
CODE = st.sampled_from(sorted(c.FINDINGS)) | st.from_regex(r"[a-z][a-z_]{0,30}", fullmatch=True)
FINDING = st.builds(Finding, CODE, TEXT)
UNIT = st.floats(0, 1)


@st.composite
def grade_results(draw: st.DrawFn, classes: int, with_study: bool = True) -> GradeResult:
    weights = draw(st.lists(st.floats(0.001, 1), min_size=classes, max_size=classes))
    low, high = sorted(draw(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))))
    held = draw(st.none() | st.just(tuple(range(low, high + 1))))
    study = draw(st.none() | grade_results(classes, with_study=False)) if with_study else None
    return GradeResult(low, tuple(weight / sum(weights) for weight in weights), held, study)


@st.composite
def joint_spaces(draw: st.DrawFn) -> JointSpace:
    def measurement(low: float, high: float) -> Measurement:
        return Measurement(draw(st.floats(low, high)), draw(st.floats(0, high)))

    spacing = draw(st.none() | st.floats(0.05, 0.5))
    return JointSpace(
        measurement(0, 0.3), measurement(0, 0.3), {}, measurement(-20, 20), measurement(50, 3000), spacing
    )


@st.composite
def knees(draw: st.DrawFn) -> GradedKnee:
    side = draw(st.sampled_from(("R", "L", "unknown")))
    quality = draw(st.none() | st.builds(Quality, UNIT, st.lists(FINDING, max_size=2).map(tuple)))
    if draw(st.booleans()):
        return GradedKnee(side, reason=draw(FINDING), quality=quality)
    return GradedKnee(
        side,
        grades={target.name: draw(grade_results(target.classes)) for target in TARGETS},
        coherence=Coherence(0.0, 0, tuple(draw(st.lists(FINDING, max_size=2)))),
        joint_space=draw(st.none() | joint_spaces()),
        quality=quality,
    )


@settings(max_examples=10)
@given(st.lists(knees(), max_size=2), st.none() | FINDING, st.lists(FINDING, max_size=2))
def test_any_result_is_read_back(
    header: FilmHeader, found: list[GradedKnee], reason: Finding | None, warnings: list[Finding]
) -> None:
    graded = GradedRadiograph("film.dcm", tuple(found), None if found else reason, tuple(warnings))
    film = ClinicalFilm(graded, header, JOB, b"")
    back = read_sr(file_bytes(structured_report(film)))
    del back["software"]
    assert back == expected(film)


@pytest.fixture(scope="module")
def header(pair: PhantomPair) -> FilmHeader:
    return BY_NAME["plain"].film(pair).header
