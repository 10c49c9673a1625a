"""The FHIR Bundle: valid for two validators, equal to report.json, and idempotent."""

import copy
import json
from dataclasses import replace

import fhir_npm
import pytest
from clinical_films import JOB, VARIANTS, ClinicalVariant, PhantomPair, having, no_knee, one_refused, report_of

from kneegrade.clinical.codes import GRADE_VALUES, GRADES, SET_MEMBER, STANDARD_ERROR
from kneegrade.clinical.fhir import bundle_bytes, fhir_bundle
from kneegrade.reporting import to_dict

PLAIN = VARIANTS[0]
MUTATIONS = {
    "no code": lambda resource: resource.pop("code"),
    "unknown element": lambda resource: resource.update(foo=1),
    "malformed date": lambda resource: resource.update(effectiveDateTime="27.3.2024"),
}


def resources(bundle: dict, kind: str) -> list[dict]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def observation(bundle: dict, code: str, side: str) -> dict:
    """The observation with this code for a side ("Right knee", "Left knee")."""
    (found,) = [
        resource
        for resource in resources(bundle, "Observation")
        if resource["code"]["coding"][0]["code"] == code and resource["bodySite"]["text"] == side
    ]
    return found


@pytest.fixture(scope="module")
def bundle(pair: PhantomPair) -> dict:
    return fhir_bundle(PLAIN.film(pair))


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npm")
    reason = fhir_npm.install(folder)
    if reason is not None:
        pytest.skip(reason)
    return folder


def test_every_variant_is_valid_in_r4b(variant: ClinicalVariant, pair: PhantomPair) -> None:
    model = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is missing").Bundle
    made = fhir_bundle(variant.film(pair))
    back = model.model_validate(made).model_dump_json()
    assert json.loads(back) == json.loads(json.dumps(made).replace("+00:00", "Z"))  # nothing is lost


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_r4b_validator_refuses(mutation: str, bundle: dict) -> None:
    """It would not refuse everything that is wrong; that it can refuse gives the test above its meaning."""
    model = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is missing").Bundle
    damaged = copy.deepcopy(bundle)
    MUTATIONS[mutation](damaged["entry"][1]["resource"])
    with pytest.raises(ValueError, match="validation error"):
        model.model_validate(damaged)


def test_every_variant_is_valid_for_npm_fhir(npm_folder, pair: PhantomPair) -> None:
    made = [fhir_bundle(variant.film(pair)) for variant in VARIANTS]
    assert [messages for messages in fhir_npm.problems(npm_folder, made) if messages] == []


def test_npm_fhir_refuses_a_status_outside_the_value_set(npm_folder, bundle: dict) -> None:
    damaged = copy.deepcopy(bundle)
    damaged["entry"][1]["resource"]["status"] = "nonsense"
    ((message, *_),) = fhir_npm.problems(npm_folder, [damaged])
    assert message["severity"] == "error"
    assert "nonsense" in message["message"]


def test_the_entries_of_a_film_of_two_knees(bundle: dict) -> None:
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds == ["Device", *["Observation"] * 20, "DiagnosticReport"]


@pytest.mark.parametrize("name", ["plain", "no_spacing", "knee_refused", "no_optional_results"])
def test_grades_and_widths_are_those_of_report_json(name: str, pair: PhantomPair) -> None:
    variant = next(v for v in VARIANTS if v.name == name)
    film = variant.film(pair)
    made = fhir_bundle(film)
    (entry,) = to_dict(report_of(film.film))["radiographs"]
    for knee in entry["knees"]:
        side = {"R": "Right knee", "L": "Left knee"}[knee["side"]]
        for grade_name, grade in (knee["grades"] or {}).items():
            found = observation(made, GRADES[grade_name].value, side)
            assert found["valueCodeableConcept"]["coding"][0]["extension"][0]["valueDecimal"] == grade["grade"]
            numbers = [c["valueQuantity"]["value"] for c in found["component"] if "valueQuantity" in c]
            assert numbers == grade["probabilities"]
            members = [
                component["valueCodeableConcept"]["coding"][0]["code"]
                for component in found["component"]
                if component["code"]["coding"][0]["code"] == SET_MEMBER.value
            ]
            assert members == [GRADE_VALUES[grade_name][value].value for value in grade["set"] or ()]
        check_widths(made, knee, side)


def check_widths(made: dict, knee: dict, side: str) -> None:
    if knee["joint_space"] is None:
        return
    is_mm = knee["joint_space_width_mm"] is not None
    unit, suffix = ("mm", "mm") if is_mm else ("1", "fraction")
    for where, code in (
        ("medial", "JSW-M-MIN" if is_mm else "JSW-M-REL"),
        ("lateral", "JSW-L-0825" if is_mm else "JSW-L-REL"),
    ):
        found, width = observation(made, code, side), knee["joint_space"][where]
        assert found["valueQuantity"]["value"] == width[suffix]
        assert found["valueQuantity"]["code"] == unit
        (error,) = [c for c in found["component"] if c["code"]["coding"][0]["code"] == STANDARD_ERROR.value]
        assert error["valueQuantity"]["value"] == width[f"{suffix}_error"]


def test_a_refused_knee_has_a_reason_instead_of_grades(pair: PhantomPair) -> None:
    made = fhir_bundle(ClinicalVariant("refused", results=one_refused).film(pair))
    knee = observation(made, "KNEEOA", "Left knee")
    assert knee["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "implant" in knee["dataAbsentReason"]["text"]
    assert "hasMember" not in knee
    assert len(resources(made, "Observation")) == 11


def test_a_film_without_knees_has_a_report_that_says_so(pair: PhantomPair) -> None:
    made = fhir_bundle(ClinicalVariant("no knee", results=no_knee).film(pair))
    (report,) = resources(made, "DiagnosticReport")
    assert report["conclusion"].startswith("No knee graded (no_knee)")
    assert "result" not in report


def test_every_reference_within_the_bundle_resolves(bundle: dict) -> None:
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    text = json.dumps(bundle)
    referenced = {part.split('"')[0] for part in text.split('"reference": "')[1:]}
    assert referenced - urls == {"#study"}


def test_every_entry_is_a_conditional_update_by_its_own_identifier(bundle: dict) -> None:
    for entry in bundle["entry"]:
        (identifier,) = entry["resource"]["identifier"]
        assert entry["request"] == {
            "method": "PUT",
            "url": f"{entry['resource']['resourceType']}?identifier={identifier['system']}|{identifier['value']}",
        }


def test_the_same_film_and_job_give_the_same_bytes_and_another_day_the_same_identifiers(pair: PhantomPair) -> None:
    film = PLAIN.film(pair)
    assert bundle_bytes(fhir_bundle(film)) == bundle_bytes(fhir_bundle(PLAIN.film(pair)))
    later = fhir_bundle(replace(film, job=replace(JOB, when=JOB.when.replace(year=2030))))
    assert [entry["request"] for entry in later["entry"]] == [entry["request"] for entry in fhir_bundle(film)["entry"]]
    assert later != fhir_bundle(film)


def test_other_weights_make_other_resources(pair: PhantomPair) -> None:
    film = PLAIN.film(pair)
    other = replace(film, job=replace(JOB, weights=replace(JOB.weights, sha256="0" * 64)))
    urls = [{entry["fullUrl"] for entry in fhir_bundle(made)["entry"]} for made in (film, other)]
    assert not urls[0] & urls[1]


def test_results_are_final_only_after_a_reader_signed_them(pair: PhantomPair) -> None:
    film = PLAIN.film(pair)
    for final, expected in ((False, {"preliminary"}), (True, {"final"})):
        made = fhir_bundle(film, final=final)
        found = {r["status"] for kind in ("Observation", "DiagnosticReport") for r in resources(made, kind)}
        assert found == expected


def issued_by(dataset) -> None:
    from pydicom import Dataset

    item = Dataset()
    item.UniversalEntityID, item.UniversalEntityIDType = "1.2.276.0.1", "ISO"
    dataset.IssuerOfPatientIDQualifiersSequence = [item]
    dataset.PatientID = "123"


@pytest.mark.parametrize(
    ("change", "system", "expected"),
    [
        (having(PatientID="123"), None, {"identifier": {"value": "123"}}),
        (having(PatientID="123"), "urn:oid:1.2", {"identifier": {"system": "urn:oid:1.2", "value": "123"}}),
        (issued_by, None, {"identifier": {"system": "urn:oid:1.2.276.0.1", "value": "123"}}),
        (having(PatientID=""), None, {"display": "Patient without an ID"}),
    ],
)
def test_the_patient_is_a_logical_reference(change, system, expected, pair: PhantomPair) -> None:
    made = fhir_bundle(ClinicalVariant("patient", change).film(pair), patient_system=system)
    subjects = [r["subject"] for kind in ("Observation", "DiagnosticReport") for r in resources(made, kind)]
    assert all(subject == {"type": "Patient", **expected} for subject in subjects)
    assert "PHANTOM^" not in json.dumps(made)


def test_the_order_is_named_by_its_accession_number(pair: PhantomPair) -> None:
    (report,) = resources(
        fhir_bundle(ClinicalVariant("a", having(AccessionNumber="A77")).film(pair)), "DiagnosticReport"
    )
    assert report["basedOn"][0]["identifier"]["value"] == "A77"
    (report,) = resources(fhir_bundle(ClinicalVariant("a", having(AccessionNumber="")).film(pair)), "DiagnosticReport")
    assert "basedOn" not in report
