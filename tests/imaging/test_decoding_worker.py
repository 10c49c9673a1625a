"""The decoding worker, run in the process of the test."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes, stored

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import decoding_worker as worker
from kneegrade.imaging.decoding_process import read_exactly, receive, send
from kneegrade.imaging.decoding_worker import decode
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import DecodedImage

FILM = dicom_bytes(dataset())


def request(path: str | None = None) -> dict[str, object]:
    return {"limits": Limits().as_dict(), "path": path}


def test_messages_are_received_as_sent() -> None:
    stream = io.BytesIO()
    send(stream, {"a": [1, "ü"]}, b"\0\1")
    send(stream, {})
    stream.seek(0)
    assert receive(stream) == ({"a": [1, "ü"]}, bytearray(b"\0\1"))
    assert receive(stream) == ({}, bytearray())
    with pytest.raises(EOFError):
        receive(stream)
    with pytest.raises(EOFError):
        read_exactly(io.BytesIO(b"abc"), 4)


def test_each_request_is_answered_in_turn(tmp_path: Path) -> None:
    film = tmp_path / "film.dcm"
    film.write_bytes(dicom_bytes(dataset(PixelSpacing=[0.2, 0.2], ImageLaterality="L")))
    requests, answers = io.BytesIO(), io.BytesIO()
    send(requests, request(str(film)))
    send(requests, request(), b"nonsense")
    send(requests, request(), film.read_bytes())
    requests.seek(0)
    worker.serve(requests, answers)
    answers.seek(0)
    assert receive(answers)[0] == {"ready": True}
    by_path = DecodedImage.from_metadata(*receive(answers))
    error, _ = receive(answers)
    by_bytes = DecodedImage.from_metadata(*receive(answers))
    assert (error["error"], error["code"]) == ("UnreadableFileError", "format")
    for image in (by_path, by_bytes):
        np.testing.assert_array_equal(image.pixels, stored(12))
        assert (image.pixel_spacing_mm, image.laterality) == ((0.2, 0.2), "L")


@pytest.mark.parametrize(("raised", "code"), [(MemoryError, "memory"), (ZeroDivisionError, "damaged")])
def test_unexpected_exceptions_are_reported_without_their_text(
    monkeypatch: pytest.MonkeyPatch, raised: type, code: str
) -> None:
    def broken(*args: object) -> None:
        raise raised("patient's name")

    monkeypatch.setattr(worker, "decode", broken)
    head, body = worker.answer(request(), bytearray(b"x"))
    assert (head["code"], body) == (code, b"")
    assert "patient" not in head["message"]


def test_read_file_reports_missing_files_and_stops_after_the_limit(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        worker.read_file(tmp_path / "none", Limits())
    assert caught.value.code == "cannot_open"
    large = tmp_path / "large"
    large.write_bytes(bytes(100))
    assert len(worker.read_file(large, Limits(file_bytes=10))) == 11


def test_main_writes_answers_to_the_original_output(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    requested: list[int] = []
    reading, writing = os.pipe()
    out, err = os.dup(1), os.dup(2)
    monkeypatch.setattr(worker, "limit_memory", requested.append)
    monkeypatch.setattr(worker.cpu_limit, "enable", lambda: None)  # the signal would end this process
    monkeypatch.setattr(worker.logging, "disable", lambda level: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    try:
        os.dup2(writing, 1)
        worker.main(12345)
    finally:
        os.dup2(out, 1)
        for descriptor in (writing, out, err):
            os.close(descriptor)
    with os.fdopen(reading, "rb") as stream:
        assert receive(stream)[0] == {"ready": True}
    assert requested == [12345]


@pytest.mark.parametrize(("hard", "expected"), [(-1, 5000), (3000, 3000), (9000, 5000)])
def test_memory_limit_does_not_exceed_the_hard_limit(monkeypatch, hard: int, expected: int) -> None:
    resource = pytest.importorskip("resource")
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: calls.append(limits))
    worker.limit_memory(5000)
    assert calls == [(expected, hard)]


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (b"", UnreadableFileError, "empty"),
        (b"words in a file renamed .dcm", UnreadableFileError, "format"),
        (b"\0" * 4000, UnreadableFileError, "format"),
        (b"%PDF-1.7 ...", UnsupportedFileError, "format"),
        (b"PK\3\4....", UnsupportedFileError, "format"),
        (b"GIF89a", UnsupportedFileError, "format"),
        (b"\x89PNG\r\n\x1a\n and no more", UnreadableFileError, "damaged"),
        (b"\xff\xd8\xff\xe0", UnreadableFileError, "damaged"),
        (b"II*\0\x08", UnreadableFileError, "damaged"),
        (b"\0" * 128 + b"DICM", UnsupportedFileError, "not_an_image"),
        (FILM[: FILM.index(b"\xe0\x7f\x10\x00")], KneeGradeError, "truncated"),
        (FILM[:-1000], UnreadableFileError, "truncated"),
        (FILM[128:], UnreadableFileError, "format"),
    ],
)
def test_files_without_radiograph_are_rejected_with_one_sentence(data: bytes, error: type, code: str) -> None:
    with pytest.raises(error) as caught:
        decode(data, Limits())
    assert caught.value.code == code
    assert caught.value.message.endswith(".")
    assert caught.value.message.count(". ") == 0


def test_files_above_the_size_limit_are_rejected() -> None:
    with pytest.raises(LimitExceededError):
        decode(FILM, Limits(file_bytes=len(FILM) - 1))
