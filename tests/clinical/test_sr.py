"""Structured reports: valid, readable without loss, the same bytes for the same job."""

from pathlib import Path

import pytest
from clinical_films import LONG_NAME, ClinicalVariant, PhantomPair, report_of
from iod_check import iod_problems, needs_dciodvfy

pytest.importorskip("highdicom", reason='highdicom is missing: pip install "kneegrade[dicom]"')

from kneegrade.clinical import read_sr
from kneegrade.clinical.codes import ascii_text
from kneegrade.clinical.derived_object import file_bytes
from kneegrade.clinical.sr import structured_report
from kneegrade.reporting import to_dict


def expected(film) -> dict:
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
    problems = iod_problems(file_bytes(made), tmp_path)
    assert len(problems) == 1
    assert "PatientName" in problems[0]
