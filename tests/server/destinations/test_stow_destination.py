"""Results to DICOMweb services that are away, refuse, half-refuse, are slow, or have an opinion of their own."""

import json
import logging
from pathlib import Path

import pytest
from archive import AE_TITLE, needs_orthanc, running_archive
from delivery_peers import Clock, free_port, put_results, put_three, small_object, states
from web_peer import Answer, running_web_peer, stow_answer, uid_in

pytest.importorskip("dicomweb_client", reason='dicomweb-client is missing: pip install "kneegrade[dicom]"')

from kneegrade.batch import web_session
from kneegrade.server.destinations.delivery import Round, deliver_due
from kneegrade.server.destinations.destination_settings import DimseSettings, StowSettings
from kneegrade.server.destinations.dimse_destination import DimseDestination
from kneegrade.server.destinations.stow_destination import StowDestination
from kneegrade.server.spool.film_spool import Spool


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=Clock())
    yield spool
    spool.close()


def web(url: str, **settings: object) -> StowDestination:
    given = {"name": "web", "url": url, **settings}
    return StowDestination(StowSettings.model_validate(given), silent_seconds=0.5)


def accepts(path: str, body: bytes) -> Answer:
    return Answer(
        200, stow_answer([uid_in(body)], {})
    )  # the sequence of failed objects is there and empty, as Orthanc's


def test_an_object_that_a_202_names_as_failed_is_not_sent(spool):
    """As other software showed "sent" after a refusal (Mirth, issues 3858, 4266)."""
    refused = {"2.25.12": 0xA700, "2.25.13": 0xC122}

    def answer(path, body):
        uid = uid_in(body)
        return Answer(202, stow_answer([], {uid: refused[uid]})) if uid in refused else accepts(path, body)

    key = put_three(spool, "web")
    with running_web_peer(answer) as peer:
        assert deliver_due(spool, web(peer.url)) == Round(sent=1, failed=2)
        assert states(spool, key, "web") == {
            "sr.dcm": ("sent", 1, None),
            "gsps.dcm": ("due", 1, "Refused with code A700."),
            "sc.dcm": ("dead", 1, "Refused with code C122."),
        }
        refused.clear()
        spool._clock.now += 5
        assert deliver_due(spool, web(peer.url)) == Round(sent=1)
        assert [uid_in(body) for *_, body in peer.requests] == ["2.25.11", "2.25.12", "2.25.13", "2.25.12"]


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (lambda uid: Answer(200, stow_answer([uid])), "sent", None),
        (lambda uid: Answer(200, stow_answer([uid]), {"Content-Type": "application/dicom+json; charset=utf-8"}), "sent",
         None),
        (lambda uid: Answer(409, stow_answer([], {uid: 0x0111})), "sent", None),
        (lambda uid: Answer(409, stow_answer([], {uid: 0xA901})), "dead", "Refused with code A901."),
        (lambda uid: Answer(409, stow_answer([], {uid: 0x0110})), "due", "Refused with code 0110."),
        (lambda uid: Answer(409, b"conflict"), "due", "HTTP 409."),
        (lambda uid: Answer(200, b""), "due", "The answer does not say that the object is stored."),
        (lambda uid: Answer(200, stow_answer(["1.2.3"])), "due", "The answer does not say that the object is stored."),
        (lambda uid: Answer(200, b"<html>"), "due", "No answer (JSONDecodeError)."),
        (lambda uid: Answer(200, b"<html>", {"Content-Type": "text/html"}), "due",
         "The answer does not say that the object is stored."),
        (lambda uid: Answer(200, [1, 2]), "due", "The answer is not one of STOW-RS (AttributeError)."),
        (lambda uid: Answer(200, stow_answer([uid]), wait=1.0), "due", "No answer (ReadTimeout)."),
        (lambda uid: Answer(400), "dead", "HTTP 400."),
        (lambda uid: Answer(404), "dead", "HTTP 404."),
        (lambda uid: Answer(413), "dead", "HTTP 413."),
        (lambda uid: Answer(401), "due", "HTTP 401."),
        (lambda uid: Answer(403), "due", "HTTP 403."),
        (lambda uid: Answer(500), "due", "HTTP 500."),
    ],
)  # fmt: skip
def test_each_answer_has_its_state(spool, answer, state, reason):
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "web")
    with running_web_peer(lambda path, body: answer("2.25.7")) as peer:
        deliver_due(spool, web(peer.url))
        assert len(peer.requests) == 1  # nothing is repeated at once
    assert states(spool, key, "web") == {"sr.dcm": (state, 1, reason)}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_service_is_left_alone_and_gets_the_rest_later(spool, status):
    key = put_three(spool, "web")
    with running_web_peer(lambda path, body: Answer(status, {}, {"Retry-After": "1"})) as peer:
        assert deliver_due(spool, web(peer.url)) == Round(failed=1, left=2)
        assert len(peer.requests) == 1
        assert states(spool, key, "web")["sr.dcm"] == ("due", 1, f"HTTP {status}.")
        spool._clock.now += 5
        peer.answer = accepts
        assert deliver_due(spool, web(peer.url)) == Round(sent=3)


def test_a_service_that_is_away_leaves_the_rest_untouched(spool):
    key = put_three(spool, "web")
    assert deliver_due(spool, web(f"http://127.0.0.1:{free_port()}")) == Round(failed=1, left=2)
    assert sorted(states(spool, key, "web").values())[-1] == ("due", 1, "No connection (ConnectionError).")


def test_a_redirect_is_not_followed_and_takes_no_token_with_it(spool, tmp_path):
    (tmp_path / "token").write_text("SECRET-TOKEN\n")
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "web")
    with running_web_peer(accepts) as elsewhere:

        def redirect(path, body):
            return Answer(302, b"", {"Location": f"{elsewhere.url}/studies"})

        with running_web_peer(redirect) as peer:
            deliver_due(spool, web(peer.url, token=tmp_path / "token"))
            assert [headers["Authorization"] for _, _, headers, _ in peer.requests] == ["Bearer SECRET-TOKEN"]
        assert elsewhere.requests == []
    assert states(spool, key, "web") == {"sr.dcm": ("due", 1, "HTTP 302.")}


def test_an_endless_answer_is_cut_off(spool, monkeypatch):
    monkeypatch.setattr(web_session, "ANSWER_BYTES", 1 << 20)
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "web")
    with running_web_peer(lambda path, body: Answer(200, bytes(3 << 20))) as peer:
        deliver_due(spool, web(peer.url))
    assert states(spool, key, "web") == {"sr.dcm": ("due", 1, "No answer (AnswerTooLongError).")}


def test_a_token_that_cannot_be_read_names_its_file_and_changes_no_state(spool, tmp_path):
    key = put_results(spool, {"sr.dcm": small_object("2.25.7")}, "web")
    with running_web_peer(accepts) as peer:
        with pytest.raises(web_session.UsageError, match="The token file token cannot be read"):
            deliver_due(spool, web(peer.url, token=tmp_path / "token"))
        assert peer.requests == []
    assert states(spool, key, "web") == {"sr.dcm": ("due", 0, None)}


def test_logs_have_no_patient_uid_or_token(spool, tmp_path, caplog):
    (tmp_path / "token").write_text("SECRET-TOKEN")
    caplog.set_level(logging.DEBUG)
    put_results(spool, {"sr.dcm": small_object("2.25.987654321")}, "web")
    with running_web_peer(lambda path, body: Answer(202, stow_answer([], {uid_in(body): 0xA700}))) as peer:
        deliver_due(spool, web(peer.url, token=tmp_path / "token"))
    assert "Refused with code A700." in caplog.text
    for secret in ("987654321", "CANARY", "SECRET-TOKEN"):
        assert secret not in caplog.text


@pytest.mark.slow
@needs_orthanc
@pytest.mark.parametrize("overwrites", [True, False])
def test_sent_again_by_both_protocols_there_is_one_instance(spool, tmp_path, overwrites):
    """Whatever was lost after an object was stored, such as the row that says so, the archive has it once."""
    pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[dicom]"')
    with running_archive(tmp_path, {"OverwriteInstances": overwrites}) as archive:
        port = archive.dicom_port
        settings = DimseSettings(name="dimse", title=AE_TITLE, host="127.0.0.1", port=port)
        destinations = [web(f"{archive.url}/dicom-web"), DimseDestination(settings)]
        for number in (1, 1, 1):
            spool = Spool(tmp_path / f"spool{len(list(tmp_path.iterdir()))}", min_free_bytes=0)
            put_three(spool, "web", "dimse", number=number)
            assert [deliver_due(spool, one) for one in destinations] == [Round(sent=3)] * 2
            spool.close()
        assert json.loads(archive.get("/statistics"))["CountInstances"] == 3
