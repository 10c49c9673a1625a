"""Results to FHIR servers."""

import json
from pathlib import Path

import pytest
from clinical_films import JOB, VARIANTS, phantom_pair
from delivery_peers import Clock, put_results, states
from web_peer import Answer, running_web_peer

pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from kneegrade.clinical import film_objects
from kneegrade.server.destinations.delivery import Round, deliver_due
from kneegrade.server.destinations.destination_settings import FhirSettings
from kneegrade.server.destinations.fhir_destination import NO_PATIENT, NO_SYSTEM, FhirDestination
from kneegrade.server.spool.film_spool import Spool

SYSTEM = "urn:oid:1.2.36.146"


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=Clock())
    yield spool
    spool.close()


@pytest.fixture(scope="module")
def bundle() -> bytes:
    """The Bundle of a film with a patient ID and without its issuer."""
    pair = phantom_pair()
    made, reasons = film_objects(pair.film, VARIANTS[0].file(pair), JOB, ["fhir"])
    assert reasons == ()
    return made["fhir"]


def ehr(url: str, patient_system: str | None = SYSTEM) -> FhirDestination:
    return FhirDestination(FhirSettings(name="ehr", url=url, patient_system=patient_system), silent_seconds=0.5)


def takes(path: str, body: bytes) -> Answer:
    entries = [{"response": {"status": "201 Created"}} for _ in json.loads(body)["entry"]]
    answer = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
    return Answer(200, answer, {"Content-Type": "application/fhir+json"})


def identifiers(body: bytes) -> list[dict[str, str]]:
    return [
        entry["resource"]["subject"]["identifier"]
        for entry in json.loads(body)["entry"]
        if "subject" in entry["resource"]
    ]


def test_a_film_is_one_transaction_and_its_patient_is_named_by_identifier_and_system(spool, bundle):
    key = put_results(spool, {"fhir.json": bundle}, "ehr")
    with running_web_peer(takes) as peer:
        assert deliver_due(spool, ehr(f"{peer.url}/r4/")) == Round(sent=1)
        assert deliver_due(spool, ehr(f"{peer.url}/r4/")) == Round()
    ((method, path, headers, body),) = peer.requests
    assert (method, path, headers["Content-Type"]) == ("POST", "/r4", "application/fhir+json")
    named = identifiers(body)
    assert {one["system"] for one in named} == {SYSTEM}
    assert {one["value"] for one in named} == {one["value"] for one in identifiers(bundle)}
    assert len(named) == len(json.loads(body)["entry"]) - 1  # all but the device
    assert states(spool, key, "ehr") == {"fhir.json": ("sent", 1, None)}


def test_without_the_system_of_the_patient_id_nothing_is_sent(spool, bundle):
    key = put_results(spool, {"fhir.json": bundle}, "ehr")
    with running_web_peer(takes) as peer:
        deliver_due(spool, ehr(peer.url, patient_system=None))
        assert peer.requests == []
    assert states(spool, key, "ehr") == {"fhir.json": ("dead", 1, NO_SYSTEM)}


def test_the_issuer_that_a_film_states_is_kept(spool, bundle):
    changed = json.loads(bundle)
    for entry in changed["entry"]:
        if "subject" in entry["resource"]:
            entry["resource"]["subject"]["identifier"]["system"] = "urn:oid:1.9.9"
    put_results(spool, {"fhir.json": json.dumps(changed).encode()}, "ehr")
    with running_web_peer(takes) as peer:
        deliver_due(spool, ehr(peer.url))
    assert {one["system"] for one in identifiers(peer.requests[0][3])} == {"urn:oid:1.9.9"}


def test_a_film_without_patient_id_is_not_sent(spool, bundle):
    changed = json.loads(bundle)
    for entry in changed["entry"]:
        entry["resource"].get("subject", {}).pop("identifier", None)
    key = put_results(spool, {"fhir.json": json.dumps(changed).encode()}, "ehr")
    with running_web_peer(takes) as peer:
        deliver_due(spool, ehr(peer.url))
        assert peer.requests == []
    assert states(spool, key, "ehr") == {"fhir.json": ("dead", 1, NO_PATIENT)}


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (Answer(200, {"resourceType": "OperationOutcome"}), "due",
         "The answer does not say that the results were taken."),
        (Answer(200, {"type": "transaction-response", "entry": [{"response": {"status": "201"}}]}), "due",
         "The answer does not say that the results were taken."),
        (Answer(400, {}), "dead", "HTTP 400."),
        (Answer(412, {}), "dead", "HTTP 412."),
        (Answer(422, {}), "dead", "HTTP 422."),
        (Answer(401, {}), "due", "HTTP 401."),
        (Answer(503, {}), "due", "HTTP 503."),
        (Answer(200, {}, wait=1.0), "due", "No answer (ReadTimeout)."),
    ],
)  # fmt: skip
def test_each_answer_has_its_state(spool, bundle, answer, state, reason):
    key = put_results(spool, {"fhir.json": bundle}, "ehr")
    with running_web_peer(lambda path, body: answer) as peer:
        deliver_due(spool, ehr(peer.url))
    assert states(spool, key, "ehr") == {"fhir.json": (state, 1, reason)}


def test_a_damaged_result_is_given_up(spool):
    key = put_results(spool, {"fhir.json": b'{"entry": [{}]}'}, "ehr")
    with running_web_peer(takes) as peer:
        deliver_due(spool, ehr(peer.url))
        assert peer.requests == []
    assert states(spool, key, "ehr") == {"fhir.json": ("dead", 1, "The file of the result is damaged.")}
