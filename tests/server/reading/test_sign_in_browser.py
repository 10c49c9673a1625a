"""A reader signs on the page of a real service, and what the signature wrote is read back."""

import json

import pytest

pytest.importorskip("playwright", reason="playwright is missing; pip install 'kneegrade[dev]'")
pytest.importorskip("highdicom", reason="highdicom is missing; pip install 'kneegrade[dicom]'")

import pydicom
from browser_pages import chromium, saved
from delivery_peers import free_port, needs_storescp, running_storescp
from served import DICOM, EXAMPLES, Serving, until

from kneegrade.clinical import read_sr
from kneegrade.server.audit_log import read_audit_log
from kneegrade.server.rest.tokens import add_token

DESTINATION = """
[[destination]]
name = "archive"
kind = "dimse"
title = "PACS"
host = "127.0.0.1"
port = {port}
objects = ["sr"]
"""


@needs_storescp
def test_a_signature_replaces_the_report_in_the_archive(tmp_path):
    port = free_port()
    with running_storescp(tmp_path / "pacs", port) as archive, chromium() as browser:
        service = Serving(tmp_path / "service", DESTINATION.format(port=port))
        try:
            token = add_token(service.folder / "tokens", "jane.doe", ["review"])
            with service.client() as client:
                film = (EXAMPLES / "bilateral.dcm").read_bytes()
                key = client.post("/v1/films", content=film, headers=DICOM | {"Prefer": "wait=60"}).json()["key"]
            kl = sign_with_another_kl(browser, service.url, token)
            reports = until(
                lambda: (
                    {report.InstanceNumber: report for report in stored(archive)} if len(stored(archive)) == 2 else None
                )
            )
        finally:
            service.close()
    before, signed = (reports[number] for number in sorted(reports))
    assert (before.VerificationFlag, signed.VerificationFlag, signed.PreliminaryFlag) == (
        "UNVERIFIED",
        "VERIFIED",
        "FINAL",
    )
    assert str(signed.VerifyingObserverSequence[0].VerifyingObserverName).rstrip("^") == "jane.doe"
    (named,) = signed.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == before.SOPInstanceUID
    results = service.settings.spool.directory / "results" / key
    right = read_sr(results / "sr-2.dcm")["knees"][0]
    assert (right["grades"]["kl"]["grade"], right["grades"]["kl"]["probabilities"]) == (kl, [])
    bundle = json.loads((results / "fhir-2.json").read_text())
    assert {entry["resource"]["status"] for entry in bundle["entry"] if "status" in entry["resource"]} == {
        "active",
        "final",
    }
    (event,) = [
        one for one in read_audit_log(service.settings.spool.directory / "audit.jsonl") if one["event"] == "film_signed"
    ]
    assert (event["reader"], event["film"], event["revision"]) == ("jane.doe", key, 2)


def stored(archive):
    """The structured reports in the folder of the archive."""
    return [pydicom.dcmread(path) for path in sorted(archive.iterdir())]


def sign_with_another_kl(browser, url, token):
    """The KL grade that the reader gave the right knee of the only film before signing it."""
    errors, page = [], browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{url}/viewer/")
    page.get_by_label("Token or link").fill(token)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-opened]")
    kl = (page.evaluate("kneegrade.film.reading.knees[0].grades.kl") + 2) % 5
    page.keyboard.press(str(kl))
    saved(page, 1)
    page.keyboard.press("s")
    assert "names you (jane.doe)" in page.get_by_role("dialog").inner_text()
    page.get_by_role("dialog").get_by_role("button", name="Sign", exact=True).click()
    standing = page.locator("#standing")
    standing.get_by_text("It cannot be changed. Wrote sr-2.dcm, fhir-2.json.").wait_for()
    assert "Signed by jane.doe, revision 2" in standing.inner_text()
    assert errors == []
    return kl
