"""The decoding process: every failure gives a `KneeGradeError`, and the next file is decoded."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from films import dataset, dicom_bytes, stored

from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError, UnsupportedFileError
from kneegrade.imaging import Limits, read_radiograph
from kneegrade.imaging import decoding_process as child
from kneegrade.imaging.decoding_process import DecodingProcess, receive, send
from kneegrade.imaging.limits import MEBIBYTE

FILM = dicom_bytes(dataset(PixelSpacing=[0.2, 0.2], ImageLaterality="L"))
posix_only = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs POSIX signals and pipes")


@pytest.fixture
def process() -> Iterator[DecodingProcess]:
    started = DecodingProcess()
    yield started
    started.close()


def assert_reads(process: DecodingProcess, limits: Limits | None = None) -> None:
    np.testing.assert_array_equal(process.decode(FILM, limits or Limits()).pixels, stored(12))


@pytest.fixture
def faulty_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding processes that fail in the way named by the content of the file."""
    program = (
        "import os, signal, sys, time; sys.path.append(sys.argv[1])\n"
        "from kneegrade.imaging import decoding_worker as worker\n"
        "original = worker.decode\n"
        "def decode(data, limits):\n"
        "    if data == b'abort': os.abort()\n"
        "    if data == b'exit': os._exit(3)\n"
        "    if data == b'hang': time.sleep(600)\n"
        "    if data == b'allocate': bytearray(limits.child_memory_bytes)\n"
        "    if data == b'print': os.write(1, b'x' * 5000); print('y' * 5000, flush=True); data = b''\n"
        "    if data == b'divide': raise ZeroDivisionError\n"
        "    return original(data, limits)\n"
        "worker.decode = decode\n"
        "worker.main(int(sys.argv[2]))\n"
    )
    monkeypatch.setattr(child, "PROGRAM", program)


def answering(answer: str) -> str:
    """The program of a decoding process that answers a request with this statement."""
    return (
        "import os, struct, sys, time; sys.path.append(sys.argv[1])\n"
        "import numpy as np\n"
        "from kneegrade.imaging.radiograph import DecodedImage\n"
        "from kneegrade.imaging.decoding_process import receive, send\n"
        "out = os.fdopen(os.dup(1), 'wb'); send(out, {'ready': True})\n"
        f"receive(sys.stdin.buffer); {answer}; time.sleep(600)\n"
    )


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("os.write(1, struct.pack('<QQ', 2, 1 << 60))", "decoder_died"),
        ("os.write(1, struct.pack('<QQ', 5, 0) + b'{not}')", "decoder_died"),
        ("send(out, {'shape': [2, 2]}, b'four')", "damaged"),
        ("send(out, {**DecodedImage(np.zeros((2, 2), np.float32)).metadata(), 'shape': [3, 3]}, bytes(16))", "damaged"),
        ("send(out, {'error': 'UsageError'})", "damaged"),
        ("send(out, [])", "damaged"),
    ],
)
def test_an_invalid_answer_is_reported_as_unreadable_file(
    process: DecodingProcess, monkeypatch: pytest.MonkeyPatch, answer: str, code: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(child, "PROGRAM", answering(answer))
        with pytest.raises(UnreadableFileError) as caught:
            process.decode(FILM, Limits())
    assert caught.value.code == code
    process.close()
    assert_reads(process)


@pytest.mark.parametrize(
    "answer", ["send(out, {'error': 'UsageError'})", "send(out, {}, b'[1]')", "send(out, [], b'{')"]
)
def test_an_invalid_answer_about_elements_is_reported_too(
    process: DecodingProcess, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(child, "PROGRAM", answering(answer))
        with pytest.raises(UnreadableFileError) as caught:
            process.elements(FILM, "film", Limits())
    assert caught.value.code == "damaged"
    process.close()


def test_files_and_bytes_are_decoded_with_their_header_attributes(process: DecodingProcess, tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(FILM)
    for source in (FILM, tmp_path / "film.dcm"):
        image = process.decode(source, Limits())
        np.testing.assert_array_equal(image.pixels, stored(12))
        assert (image.pixel_spacing_mm, image.spacing_source) == ((0.2, 0.2), "PixelSpacing")
        assert (image.laterality, image.identity.study_instance_uid) == ("L", "1.2.4")


def test_one_process_decodes_many_files_and_starts_with_the_first(process: DecodingProcess) -> None:
    assert process.pid is None
    assert_reads(process)
    first = process.pid
    with pytest.raises(UnreadableFileError):
        process.decode(b"not a film", Limits())
    assert_reads(process)
    assert process.pid == first
    process.close()
    assert process.pid is None
    process.close()
    assert_reads(process)
    assert process.pid != first


@pytest.mark.usefixtures("faulty_decoder")
@pytest.mark.parametrize("action", [b"abort", b"exit"])
def test_a_crash_of_the_decoder_is_reported(process: DecodingProcess, action: bytes) -> None:
    assert_reads(process)
    with pytest.raises(UnreadableFileError) as caught:
        process.decode(action, Limits())
    assert caught.value.code == "decoder_died"
    assert process.pid is None
    assert_reads(process)


@pytest.mark.usefixtures("faulty_decoder")
def test_a_decoder_is_stopped_at_the_time_limit(process: DecodingProcess) -> None:
    limits = Limits(child_seconds=0.2)
    with pytest.raises(LimitExceededError, match=r"0\.2 s") as caught:
        process.decode(b"hang", limits)
    assert caught.value.code == "time"
    assert process.pid is None
    assert_reads(process)


@pytest.mark.usefixtures("faulty_decoder")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux caps the address space of a process reliably")
def test_a_decoder_that_exceeds_the_memory_limit_reports_it_and_continues(process: DecodingProcess) -> None:
    limits = Limits(child_memory_bytes=2048 * MEBIBYTE)
    with pytest.raises(LimitExceededError) as caught:
        process.decode(b"allocate", limits)
    assert caught.value.code == "memory"
    pid = process.pid
    assert_reads(process, limits)
    assert process.pid == pid


@pytest.mark.usefixtures("faulty_decoder")
def test_output_printed_by_a_decoder_is_not_mixed_with_answers(process: DecodingProcess) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        process.decode(b"print", Limits())
    assert caught.value.code == "empty"
    assert_reads(process)


@pytest.mark.usefixtures("faulty_decoder")
def test_unexpected_exceptions_are_reported(process: DecodingProcess) -> None:
    with pytest.raises(UnreadableFileError, match="could not be read") as caught:
        process.decode(b"divide", Limits())
    assert caught.value.code == "damaged"
    assert_reads(process)


def test_another_memory_limit_starts_another_process(process: DecodingProcess) -> None:
    assert_reads(process)
    first = process.pid
    assert_reads(process, Limits(child_memory_bytes=3072 * MEBIBYTE))
    assert process.pid not in (None, first)


@posix_only
def test_a_process_killed_between_files_is_replaced(process: DecodingProcess) -> None:
    assert_reads(process)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    process._process.wait()  # type: ignore[union-attr]
    assert process.pid is None
    assert_reads(process)
    assert process.pid != first


def test_a_process_that_does_not_start_is_reported(process: DecodingProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(child, "PROGRAM", "raise SystemExit(1)")
        with pytest.raises(KneeGradeError) as caught:
            process.decode(FILM, Limits())
    assert caught.value.code == "decoder_start"
    assert_reads(process)


def test_an_interrupt_leaves_no_partial_answer_in_the_pipe(
    process: DecodingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_reads(process)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    for name in ("receive", "_start"):
        with monkeypatch.context() as patch:
            patch.setattr(child, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                process.decode(dicom_bytes(dataset(4095 - stored(12))), Limits())
        assert process.pid is None
        assert_reads(process)
        process.close()
    with monkeypatch.context() as patch:
        patch.setattr(child, "receive", interrupt)  # while the process starts
        with pytest.raises(KeyboardInterrupt):
            process.decode(FILM, Limits())
    assert_reads(process)


def test_requests_of_several_threads_are_serialised(process: DecodingProcess) -> None:
    is_correct: list[bool] = []

    def read(step: int) -> None:
        values = stored(12) // step
        pixels = process.decode(dicom_bytes(dataset(values)), Limits()).pixels
        is_correct.append(bool(np.array_equal(pixels, values)))

    threads = [threading.Thread(target=read, args=(step,)) for step in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_correct == [True] * 8


def test_close_does_not_stop_a_process_owned_by_another_process(process: DecodingProcess) -> None:
    assert_reads(process)
    running = process._process
    assert running is not None
    process._owner = -1
    process.close()
    assert running.poll() is None
    process._process, process._owner = running, os.getpid()
    assert_reads(process)


def test_errors_keep_their_class_code_and_message(process: DecodingProcess) -> None:
    with pytest.raises(UnsupportedFileError) as caught:
        process.decode(dicom_bytes(dataset(Modality="CT")), Limits())
    assert (caught.value.code, "CT" in caught.value.message) == ("modality", True)
    for name in ("SystemExit", "annotations", "Nonsense"):
        assert type(child._error_in({"error": name, "message": "m", "code": "c"})) is KneeGradeError


def test_missing_files_are_reported_without_their_name(process: DecodingProcess, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        process.decode(tmp_path / "patient name.dcm", Limits())
    assert caught.value.code == "cannot_open"
    assert "patient" not in caught.value.message


def test_the_shared_process_survives_a_bad_file() -> None:
    read_radiograph(FILM)
    pid = child.decoding_process().pid
    with pytest.raises(KneeGradeError):
        read_radiograph(b"bad")
    read_radiograph(FILM)
    assert child.decoding_process().pid == pid


@pytest.mark.parametrize("cut", [0, 5, 16, 20, -1])
def test_a_truncated_message_raises_eof_error(cut: int) -> None:
    stream = io.BytesIO()
    send(stream, {"a": [1, None]}, b"body")
    message = stream.getvalue()
    assert receive(io.BytesIO(message)) == ({"a": [1, None]}, bytearray(b"body"))
    with pytest.raises(EOFError):
        receive(io.BytesIO(message[:cut]))
