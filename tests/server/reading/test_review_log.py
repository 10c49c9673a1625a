"""The log of readings: nothing acknowledged is lost, nobody is overwritten."""

import subprocess
import sys
from pathlib import Path

import pytest

from kneegrade.server.reading.review_log import ConflictError, ReviewLog, Stream

FILM = Stream("a" * 40)
OTHER = Stream("b" * 40)

APPENDING = """
import sys
from pathlib import Path
from kneegrade.server.reading.review_log import ConflictError, ReviewLog, Stream

log, stream, reader = ReviewLog(Path(sys.argv[1])), Stream("a" * 40), sys.argv[2]
for i in range(40):
    while True:
        newest = log.newest(stream)
        try:
            log.append(stream, {"n": i}, based_on=newest.revision if newest else 0, reader=reader, source="film")
            break
        except ConflictError:
            pass
"""


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "reviews.jsonl"


def add(log: ReviewLog, value: int, based_on: int, reader: str = "anna", stream: Stream = FILM):
    return log.append(stream, {"value": value}, based_on=based_on, reader=reader, source="film.dcm")


def test_revisions_are_read_back_by_another_process(path):
    log = ReviewLog(path)
    add(log, 1, 0)
    add(log, 2, 1, "ben")
    add(log, 7, 0, stream=OTHER)
    again = ReviewLog(path)
    assert [(r.revision, r.reader, r.reading) for r in again.history(FILM)] == [
        (1, "anna", {"value": 1}), (2, "ben", {"value": 2}),
    ]  # fmt: skip
    assert again.newest(OTHER).reading == {"value": 7}
    assert again.streams() == log.streams()


def test_a_reading_based_on_an_older_revision_is_refused(path):
    log = ReviewLog(path)
    add(log, 1, 0)
    with pytest.raises(ConflictError) as conflict:
        add(log, 2, 0, "ben")
    assert (conflict.value.newest.revision, conflict.value.newest.reader) == (1, "anna")
    assert len(path.read_bytes().splitlines()) == 1


def test_the_same_reading_sent_again_is_answered_with_its_revision(path):
    log = ReviewLog(path)
    first = add(log, 1, 0)
    assert add(log, 1, 0) == first
    with pytest.raises(ConflictError):
        add(log, 1, 0, "ben")


def test_a_log_that_another_process_wrote_to_is_read_before_a_conflict_is_decided(path):
    mine, theirs = ReviewLog(path), ReviewLog(path)
    add(theirs, 1, 0, "ben")
    with pytest.raises(ConflictError):
        add(mine, 2, 0)
    assert add(mine, 2, 1).revision == 2


def test_a_line_torn_at_any_byte_loses_only_itself(path):
    log = ReviewLog(path)
    add(log, 1, 0)
    whole = len(path.read_bytes())
    add(log, 2, 1)
    content = path.read_bytes()
    for end in range(whole, len(content)):
        path.write_bytes(content[:end])
        torn = ReviewLog(path)
        assert [r.reading["value"] for r in torn.history(FILM)] == [1]
        complete = end == len(content) - 1  # all but the end of the line: the reading was on the disk
        revision = add(torn, 3, 2 if complete else 1)
        assert revision.revision == (3 if complete else 2)
        values = [r.reading["value"] for r in ReviewLog(path).history(FILM)]
        assert values == ([1, 2, 3] if complete else [1, 3])
        assert ReviewLog(path).damaged == (0 if complete or end == whole else 1)


def test_a_damaged_line_is_counted_and_passed_over(path):
    log = ReviewLog(path)
    add(log, 1, 0)
    with path.open("ab") as stream:
        stream.write(b'{"stream":{"film":"x"}}\n\xff\xfe\n[]\n')
    again = ReviewLog(path)
    assert (again.damaged, add(again, 2, 1).revision) == (3, 2)


def test_two_processes_append_without_losing_a_revision(path):
    processes = [subprocess.Popen([sys.executable, "-c", APPENDING, str(path), name]) for name in ("anna", "ben")]
    assert [process.wait(60) for process in processes] == [0, 0]
    history = ReviewLog(path).history(FILM)
    assert [review.revision for review in history] == list(range(1, 81))
    for name in ("anna", "ben"):
        assert [r.reading["n"] for r in history if r.reader == name] == list(range(40))


def test_the_file_is_for_its_owner_alone(path):
    add(ReviewLog(path), 1, 0)
    assert path.stat().st_mode & 0o777 == 0o600
