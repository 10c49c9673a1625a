"""The loop of the decoding process, run here within the test's own."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes, stored

from kneegrade.errors import UnreadableFileError
from kneegrade.imaging import decoding_worker as worker
from kneegrade.imaging.decoding_process import read_exactly, receive, send
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.radiograph import Picture


def request(path: str | None = None) -> dict[str, object]:
    return {"limits": Limits().as_dict(), "path": path}


def test_messages_come_back_as_they_went() -> None:
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
    by_path = Picture.from_head(*receive(answers))
    refused, _ = receive(answers)
    by_bytes = Picture.from_head(*receive(answers))
    assert (refused["error"], refused["code"]) == ("UnreadableFileError", "format")
    for picture in (by_path, by_bytes):
        np.testing.assert_array_equal(picture.pixels, stored(12))
        assert (picture.pixel_spacing_mm, picture.laterality) == ((0.2, 0.2), "L")


@pytest.mark.parametrize(("raised", "code"), [(MemoryError, "memory"), (ZeroDivisionError, "damaged")])
def test_every_foreign_exception_has_a_reason(monkeypatch: pytest.MonkeyPatch, raised: type, code: str) -> None:
    def broken(*args: object) -> None:
        raise raised("patient's name")

    monkeypatch.setattr(worker, "decode", broken)
    head, body = worker.answer(request(), bytearray(b"x"))
    assert (head["code"], body) == (code, b"")
    assert "patient" not in head["message"]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        worker.read_file(tmp_path / "none", Limits())
    assert caught.value.code == "cannot_open"
    large = tmp_path / "large"
    large.write_bytes(bytes(100))
    assert len(worker.read_file(large, Limits(file_bytes=10))) == 11


def test_main_serves_on_the_real_output_and_codecs_print_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    asked: list[int] = []
    reading, writing = os.pipe()
    out, err = os.dup(1), os.dup(2)
    monkeypatch.setattr(worker, "limit_memory", asked.append)
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
    assert asked == [12345]


@pytest.mark.parametrize(("hard", "expected"), [(-1, 5000), (3000, 3000), (9000, 5000)])
def test_memory_is_capped_within_what_the_system_allows(monkeypatch, hard: int, expected: int) -> None:
    resource = pytest.importorskip("resource")
    caps: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: caps.append(limits))
    worker.limit_memory(5000)
    assert caps == [(expected, hard)]
