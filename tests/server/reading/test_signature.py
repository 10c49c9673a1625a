"""Signed revisions: what the reader decided, read back from the objects."""

import json
from collections.abc import Callable

import pytest

pytest.importorskip("highdicom", reason="highdicom is missing; pip install 'kneegrade[dicom]'")

from pydicom import dcmread

from kneegrade.clinical import read_sr
from kneegrade.server.audit_log import AUDIT_FILE, AuditLog, read_audit_log
from kneegrade.server.reading.folder_store import FolderStore
from kneegrade.server.reading.reading_desk import ReadingDesk, SignedError
from kneegrade.server.reading.review import Reading
from kneegrade.server.reading.review_log import Review, Stream
from kneegrade.server.reading.signature import FolderSignatures
from kneegrade.server.reading.spool_store import SpoolSignatures, SpoolStore
from kneegrade.server.spool.film_spool import Spool


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The bilateral example, graded with a structured report and a FHIR Bundle."""
    from collections import Counter
    from datetime import UTC, datetime
    from pathlib import Path

    from kneegrade.clinical import Job, ObjectWriter
    from kneegrade.grader import Grader
    from kneegrade.imaging import find_sources
    from kneegrade.reporting import write_inputs, write_report

    out, film = tmp_path_factory.mktemp("graded"), Path(__file__).parents[3] / "examples" / "bilateral.dcm"
    grader = Grader("cpu")
    writer = ObjectWriter(out, ["sr", "fhir"], Job.of(grader, datetime(2026, 5, 4, 12, tzinfo=UTC)))
    report = grader.grade_sources(list(find_sources([film], other_files=Counter())), derive=writer)
    write_report(report, out, ["json"])
    write_inputs([film], out)
    return out


def withdraw(store, reader="Doe^Jane"):
    """The revision that withdraws the signature of the first film."""
    desk, key = ReadingDesk(store), store.worklist()[0].key
    film = desk.film(key, reader)
    draft = Reading.model_validate(film["reading"] | {"status": "draft"})
    return desk.save(key, reader, draft, based_on=film["revision"])


def sign(store, sign_film: Callable[[str, Review], list[str]], change: Callable[[dict], None], reader="Doe^Jane"):
    desk, key = ReadingDesk(store), store.worklist()[0].key
    if desk.film(key, reader)["reading"]["status"] == "signed":
        withdraw(store, reader)
    film = desk.film(key, reader)
    reading = film["reading"] | {"status": "signed"}
    change(reading)
    review = desk.save(key, reader, Reading.model_validate(reading), based_on=film["revision"])
    return sign_film(key, review), review


def test_a_signature_makes_a_verified_revision_that_replaces_the_report(graded):
    store = FolderStore(graded)
    signatures = FolderSignatures(graded, store.film, store.content)

    def change(reading):
        reading["knees"][0]["grades"]["kl"] = 3
        reading["knees"][1] |= {"gradable": False, "reason": "metal"}

    notes, review = sign(store, signatures, change)
    assert notes == [f"Signed. Wrote bilateral.sr-{review.revision}.dcm, bilateral.fhir-{review.revision}.json."]
    before, after = (
        dcmread(graded / "dicom" / name) for name in ("bilateral.sr.dcm", f"bilateral.sr-{review.revision}.dcm")
    )
    assert (after.VerificationFlag, after.CompletionFlag, after.PreliminaryFlag) == ("VERIFIED", "COMPLETE", "FINAL")
    (verifier,) = after.VerifyingObserverSequence
    assert str(verifier.VerifyingObserverName) == "Doe^Jane"
    (predecessor,) = after.PredecessorDocumentsSequence
    named = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == before.SOPInstanceUID != after.SOPInstanceUID
    assert after.SeriesInstanceUID == before.SeriesInstanceUID
    read = read_sr(graded / "dicom" / f"bilateral.sr-{review.revision}.dcm")
    right, left = read["knees"]
    assert (right["grades"]["kl"]["grade"], right["grades"]["kl"]["probabilities"]) == (3, [])
    machine = store.film(review.stream.film).knees[0]["grades"]["jsn_medial"]
    assert right["grades"]["jsn_medial"]["probabilities"] == pytest.approx(machine["probabilities"])
    assert (left["status"], left["grades"]) == ("not_gradable", None)
    bundle = json.loads((graded / "fhir" / f"bilateral.fhir-{review.revision}.json").read_text())
    statuses = {entry["resource"].get("status") for entry in bundle["entry"]}
    assert statuses == {"active", "final"}


def test_a_second_signature_replaces_the_first(graded):
    store = FolderStore(graded)
    signatures = FolderSignatures(graded, store.film, store.content)
    _, first = sign(store, signatures, lambda reading: reading["knees"][0]["grades"].update(kl=2))
    _, second = sign(store, signatures, lambda reading: reading["knees"][0]["grades"].update(kl=4), "Roe^Richard")
    one, two = (dcmread(graded / "dicom" / f"bilateral.sr-{review.revision}.dcm") for review in (first, second))
    (predecessor,) = two.PredecessorDocumentsSequence
    assert (
        predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    )
    assert two.InstanceNumber > one.InstanceNumber


@pytest.fixture
def spool(graded, tmp_path):
    """A spool with the bilateral example, graded."""
    spool = Spool(tmp_path / "spool", min_free_bytes=0)
    receive(spool, graded)
    yield spool
    spool.close()


def receive(spool, graded):
    """Let the spool receive and grade the bilateral example."""
    from pathlib import Path

    source = Path(__file__).parents[3] / "examples" / "bilateral.dcm"
    stream, path = spool.temporary_file()
    with stream:
        stream.write(source.read_bytes())
    key = spool.accept(path, kind="dicom", sop_instance_uid=str(dcmread(source).SOPInstanceUID), sender="test").key
    assert spool.claim() is not None
    with spool.writing_results(key) as folder:
        (folder / "report.json").write_bytes((graded / "report.json").read_bytes())
        (folder / "sr.dcm").write_bytes((graded / "dicom" / "bilateral.sr.dcm").read_bytes())
    spool.finish(key, deliveries={"archive": ["sr.dcm"]})


def test_a_signature_in_a_spool_is_written_once_and_delivered(spool):
    store = SpoolStore(spool)
    key = store.worklist()[0].key
    signatures = SpoolSignatures(store, spool, lambda names: {"archive": names, "records": ()}, "Clinic")
    notes, _ = sign(store, signatures, lambda reading: reading["knees"][0]["grades"].update(kl=4))
    assert notes == ["Signed. Wrote sr-1.dcm."]
    assert sorted(row.object for row in spool.deliveries(key)) == ["sr-1.dcm", "sr.dcm"]
    signed = dcmread(spool.results(key) / "sr-1.dcm")
    assert signed.VerifyingObserverSequence[0].VerifyingOrganization == "Clinic"
    assert ReadingDesk(SpoolStore(spool)).worklist("x")["films"][0]["status"] == "signed"
    event, written = read_audit_log(spool.directory / "audit.jsonl")
    assert (event["event"], event["film"], event["reader"], event["revision"]) == ("film_signed", key, "Doe^Jane", 1)
    assert (written["event"], written["instance"]) == ("report_signed", signed.SOPInstanceUID)
    before = (spool.results(key) / "sr-1.dcm").read_bytes()
    assert (signatures.redo(), len(spool.deliveries(key))) == (0, 2)
    signatures(key, store.log.history(Stream(key))[0])  # again, as after a broken connection: the same bytes
    assert (spool.results(key) / "sr-1.dcm").read_bytes() == before


def test_a_signature_is_withdrawn_by_an_act_of_its_own(spool):
    store = SpoolStore(spool)
    key = store.worklist()[0].key
    signatures = SpoolSignatures(store, spool, lambda names: {"archive": names}, "Clinic")
    sign(store, signatures, lambda reading: None)
    desk = ReadingDesk(store)
    changed = desk.film(key, "Roe^Richard")["reading"] | {"status": "draft", "note": "changed"}
    with pytest.raises(SignedError, match="signed by Doe\\^Jane, revision 1"):
        desk.save(key, "Roe^Richard", Reading.model_validate(changed), based_on=1)
    withdrawal = withdraw(store, "Roe^Richard")
    assert desk.withdraws(withdrawal)
    (sentence,) = signatures(key, withdrawal)
    assert "withdrawn" in sentence
    assert desk.worklist("x")["films"][0]["withdrawn"]
    film = desk.film(key, "Roe^Richard")
    assert (film["reading"]["status"], film["signed"]["reader"]) == ("draft", "Doe^Jane")
    assert not desk.withdraws(desk.save(key, "Roe^Richard", Reading.model_validate(changed), based_on=2))
    audited = list(read_audit_log(spool.directory / "audit.jsonl"))
    events = [(event["event"], event["reader"]) for event in audited if "reader" in event]
    assert events == [("film_signed", "Doe^Jane"), ("signature_withdrawn", "Roe^Richard")]
    assert sorted(row.object for row in spool.deliveries(key)) == ["sr-1.dcm", "sr.dcm"]  # what was sent stays


def test_a_withdrawn_signature_is_not_written_at_the_next_start(spool):
    store = SpoolStore(spool)
    sign(store, lambda key, review: [], lambda reading: None)  # the object was not written
    withdraw(store)
    assert SpoolSignatures(SpoolStore(spool), spool, lambda names: {}, "Clinic").redo() == 0


def test_after_a_purge_a_signature_still_replaces_the_last_signed_report(spool, graded):
    """As the archive has it: else two final reports would replace the same first one."""
    store = SpoolStore(spool)
    key = store.worklist()[0].key
    signatures = SpoolSignatures(store, spool, lambda names: {"archive": names}, "Clinic")
    sign(store, signatures, lambda reading: reading["knees"][0]["grades"].update(kl=4))
    first = dcmread(spool.results(key) / "sr-1.dcm")
    assert spool.purge(older_than_seconds=-1, force=True) == 1
    receive(spool, graded)
    assert (signatures.redo(), [row.object for row in spool.deliveries(key)]) == (0, ["sr.dcm"])
    _, second = sign(store, signatures, lambda reading: reading["knees"][0]["grades"].update(kl=2), "Roe^Richard")
    (named,) = dcmread(spool.results(key) / f"sr-{second.revision}.dcm").PredecessorDocumentsSequence
    (series,) = named.ReferencedSeriesSequence
    assert named.StudyInstanceUID == first.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    (instance,) = series.ReferencedSOPSequence
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == (
        first.SOPClassUID, first.SOPInstanceUID,
    )  # fmt: skip


@pytest.mark.parametrize("cut", ["after the review log", "object not written", "before the delivery"])
def test_a_signature_that_was_cut_off_is_written_at_the_next_start(spool, cut, monkeypatch):
    store = SpoolStore(spool)
    key = store.worklist()[0].key
    signatures = SpoolSignatures(store, spool, lambda names: {"archive": names}, "Clinic")

    def sign_film(key, review):
        if cut == "after the review log":
            return []
        with monkeypatch.context() as patch:
            if cut == "object not written":
                patch.setattr("kneegrade.server.reading.spool_store.signed_files", lambda *_: 1 / 0)
            else:
                patch.setattr(Spool, "finish", lambda *_, **__: None)
            return signatures(key, review)

    sign(store, sign_film, lambda reading: None)
    assert [row.object for row in spool.deliveries(key)] == ["sr.dcm"]
    started = SpoolSignatures(SpoolStore(spool), spool, lambda names: {"archive": names}, "Clinic")
    assert (started.redo(), started.redo()) == (1, 0)
    assert sorted(row.object for row in spool.deliveries(key)) == ["sr-1.dcm", "sr.dcm"]
    assert dcmread(spool.results(key) / "sr-1.dcm").VerificationFlag == "VERIFIED"
    events = [event["event"] for event in read_audit_log(spool.directory / "audit.jsonl")]
    assert events.count("film_signed") == 1
    assert events[-1] == "report_signed"


def test_a_report_that_no_destination_takes_is_audited_at_the_next_start(spool, monkeypatch):
    store = SpoolStore(spool)
    key = store.worklist()[0].key
    signatures, write = SpoolSignatures(store, spool, lambda names: {}, "Clinic"), AuditLog.write

    def killed(log, event, **values):
        if event == "report_signed":
            raise KeyboardInterrupt
        write(log, event, **values)

    monkeypatch.setattr(AuditLog, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        sign(store, signatures, lambda reading: None)
    monkeypatch.undo()
    assert (spool.results(key) / "sr-1.dcm").is_file()
    started = SpoolSignatures(SpoolStore(spool), spool, lambda names: {}, "Clinic")
    assert (started.redo(), started.redo()) == (1, 0)
    events = [event["event"] for event in read_audit_log(spool.directory / AUDIT_FILE)]
    assert events == ["film_signed", "report_signed"]


def test_the_rest_service_writes_at_its_start_what_was_cut_off(spool, tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="FastAPI is missing; pip install 'kneegrade[serve]'")
    import threading

    from uvicorn import Server

    from kneegrade.server.rest.rest_server import run_rest
    from kneegrade.server.settings import ServeSettings

    store = SpoolStore(spool)
    sign(store, lambda key, review: [], lambda reading: None)  # killed after the review log
    monkeypatch.setattr(Server, "run", lambda self, sockets: sockets[0].close())
    (tmp_path / "tokens").touch(0o600)
    rest = {"tokens": str(tmp_path / "tokens"), "port": 0}
    run_rest(ServeSettings.model_validate({"spool": {"directory": str(spool.directory)}, "rest": rest}), spool)
    for thread in threading.enumerate():
        if thread.name == "signatures":
            thread.join(30)
    assert (spool.results(store.worklist()[0].key) / "sr-1.dcm").is_file()
