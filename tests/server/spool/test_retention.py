"""The audit log has the keys of the films that were removed."""

import pytest

from kneegrade.server.audit_log import AuditLog, read_audit_log
from kneegrade.server.spool import spool_upkeep
from kneegrade.server.spool.film_spool import Spool, SpoolFullError
from kneegrade.server.spool.retention import purge_films


@pytest.fixture
def spool(tmp_path):
    """A spool with three films that nobody has graded."""
    spool = Spool(tmp_path / "spool", min_free_bytes=0)
    for number in range(3):
        stream, path = spool.temporary_file()
        with stream:
            stream.write(b"film %d" % number)
        spool.accept(path, kind="dicom", sop_instance_uid=None, sender="ward")
    yield spool
    spool.close()


def test_every_removed_film_is_named(spool, monkeypatch):
    monkeypatch.setattr(spool_upkeep, "PURGE_FILMS", 2)
    keys = {film.key for film in spool.films()}
    assert purge_films(spool, days=0, by="anna") == 0
    assert purge_films(spool, days=-1, by="anna", force=True) == 3
    events = list(read_audit_log(spool.directory / "audit.jsonl"))
    assert [(one["event"], one["number"], one["by"]) for one in events] == [
        ("films_removed", 2, "anna"), ("films_removed", 1, "anna"),
    ]  # fmt: skip
    assert {key for one in events for key in one["films"]} == keys


def test_an_audit_log_that_cannot_be_written_is_an_error_but_keeps_no_film(spool, monkeypatch):
    def full(*arguments, **values):
        raise SpoolFullError("The disk of the spool is full.")

    monkeypatch.setattr(AuditLog, "write", full)
    with pytest.raises(SpoolFullError):
        purge_films(spool, days=-1, by="anna", force=True)
    assert spool.films() == []
