"""`DecodingProcess`: a child process with a memory limit and a time limit, in which untrusted files are decoded.

One process decodes many files, because starting it takes half a second. When it crashes or is stopped, the next file
is decoded in a new process. It is started as plain `python -c` rather than with `multiprocessing`, so that scripts
need no `if __name__ == "__main__"`. It shares only two pipes with its parent.

`send` and `receive` define the message format on these pipes: the lengths of header and payload, a JSON header, and
the payload as raw bytes. Answers are never unpickled, because the child process has parsed an untrusted file.
"""

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from kneegrade import errors
from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError
from kneegrade.imaging import cpu_limit
from kneegrade.imaging.dicom.header_keywords import MAX_DOCUMENT_BYTES, MAX_FILM_BYTES
from kneegrade.imaging.limits import MEBIBYTE, Limits
from kneegrade.imaging.radiograph import DecodedImage
from kneegrade.imaging.stuck_process import Reason, killed_when_stuck

LENGTHS = struct.Struct("<QQ")  # bytes of the header, bytes of the payload
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kneegrade.imaging.decoding_worker import main; main(int(sys.argv[2]))"
)
BYTES_PER_PIXEL = 4
STARTS = 2  # of a process, before it counts as impossible
START_SECONDS = 60.0
MAX_HEADER_BYTES = MEBIBYTE
SINGLE_THREAD_ENV = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

T = TypeVar("T")


def send(stream: BinaryIO, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message and flush the stream."""
    encoded = json.dumps(header).encode("utf-8")
    for part in (LENGTHS.pack(len(encoded), len(payload)) + encoded, payload):
        remaining = memoryview(part)
        while remaining:  # an unbuffered pipe may accept only a part of the bytes
            remaining = remaining[stream.write(remaining) :]
    stream.flush()


def receive(stream: BinaryIO, max_bytes: int = sys.maxsize) -> tuple[dict[str, Any], bytearray]:
    """The next message as (header, payload).

    Args:
        stream: binary stream with `readinto`.
        max_bytes: limit for header and payload together; a longer message is rejected before memory is allocated.

    Raises:
        EOFError: the stream ended, between messages or within one.
        ValueError: the message is too long, or its header is not JSON.
    """
    header_length, payload_length = LENGTHS.unpack(read_exactly(stream, LENGTHS.size))
    if header_length + payload_length > max_bytes:
        raise ValueError
    header: dict[str, Any] = json.loads(bytes(read_exactly(stream, header_length)))
    return header, read_exactly(stream, payload_length)


def read_exactly(stream: BinaryIO, length: int) -> bytearray:
    """The next `length` bytes of the stream.

    Raises:
        EOFError: the stream ended before.
    """
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return buffer


class DecodingProcess:
    """A child process that decodes one file at a time; it starts with the first file and restarts when it has ended.

    Safe to use from several threads: requests are serialised by a lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._memory_bytes = 0
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        """Process id while the process is running, otherwise None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def decode(self, source: Path | bytes, limits: Limits) -> DecodedImage:
        """The decoded image.

        Args:
            source: path of a file, or its bytes.
            limits: limits for the file and for the process.

        Raises:
            KneeGradeError: the file cannot be decoded; the message gives the reason.
        """
        return self._outcome(source, limits, {}, DecodedImage.from_metadata)

    def elements(self, source: Path | bytes, kind: Literal["film", "document"], limits: Limits) -> dict[str, Any]:
        """Elements of a DICOM file as DICOM JSON (`imaging.dicom_elements`); no pixel is decoded.

        Args:
            source: path of a file, or its bytes.
            kind: "film" for the listed elements of a film, "document" for all elements of a structured report.
            limits: limits for the file and for the process.

        Raises:
            KneeGradeError: the file cannot be read; the message gives the reason.
        """
        largest = MAX_FILM_BYTES if kind == "film" else MAX_DOCUMENT_BYTES

        def parsed(answer: dict[str, Any], text: bytearray) -> dict[str, Any]:
            elements = json.loads(bytes(text)) if len(text) <= 2 * largest else None
            if not isinstance(elements, dict):
                raise TypeError
            return elements

        return self._outcome(source, limits, {"elements": kind}, parsed)

    def _outcome(
        self, source: Path | bytes, limits: Limits, wanted: dict[str, Any],
        parsed: Callable[[dict[str, Any], bytearray], T],
    ) -> T:  # fmt: skip
        """What `parsed` makes of header and payload of the answer to a request; raises the error that it reports."""
        request = {"limits": limits.as_dict(), "path": None if isinstance(source, bytes) else str(source), **wanted}
        with self._lock:
            answer, payload = self._request_with_retry(request, source if isinstance(source, bytes) else b"", limits)
        try:
            outcome = _error_in(answer) if "error" in answer else parsed(answer, payload)
        except (KeyError, TypeError, ValueError):  # a codec overwrote the answer
            raise UnreadableFileError(
                "The decoder returned an invalid answer for this file; use another copy of the file.", code="damaged"
            ) from None
        if isinstance(outcome, KneeGradeError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Stop the process if it is running; a later `decode` starts a new one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            _close_pipes(process)
            process.wait()

    def detach(self) -> None:
        """Release the process without stopping it; for a forked child, whose parent owns the process."""
        process, self._process = self._process, None
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # the parent waits for the process, not this one

    def _request_with_retry(
        self, header: dict[str, Any], payload: bytes, limits: Limits
    ) -> tuple[dict[str, Any], bytearray]:
        """The answer to a request, with one retry in a new process.

        A crash is attributed to the file only in a new process: an older process may have been damaged by earlier
        files.
        """
        is_new_process = self.pid is None
        try:
            return self._request(header, payload, limits)
        except UnreadableFileError:
            if is_new_process:
                raise
        return self._request(header, payload, limits)

    def _request(self, header: dict[str, Any], payload: bytes, limits: Limits) -> tuple[dict[str, Any], bytearray]:
        """The answer of the running process, or of a new one, within the time limit."""
        process = self._running_process(limits)
        with killed_when_stuck(process, limits.child_seconds) as watch:
            try:
                send(cast(BinaryIO, process.stdin), header, payload)
                answer = receive(cast(BinaryIO, process.stdout), BYTES_PER_PIXEL * limits.pixels + MAX_HEADER_BYTES)
            except (EOFError, OSError, ValueError):
                self.close()
                raise _exit_error(process.returncode, watch.reason, limits) from None
            except BaseException:  # after an interrupt, the rest of this answer would remain in the pipe
                self.close()
                raise
        if watch.reason:  # just after the answer
            self.close()
        return answer

    def _running_process(self, limits: Limits) -> "subprocess.Popen[bytes]":
        """The current process if it is running with the same memory limit, otherwise a new one."""
        if self._process is not None and (self.pid is None or self._memory_bytes != limits.child_memory_bytes):
            self.close()
        if self._process is None:
            self._process, self._memory_bytes = _start(limits.child_memory_bytes), limits.child_memory_bytes
        return self._process


def _start(memory_bytes: int) -> "subprocess.Popen[bytes]":
    """A new process that has sent its ready message; a second one is tried if the first ends or does not answer.

    Raises:
        KneeGradeError: the second one has failed too.
    """
    for _ in range(STARTS):
        with suppress(EOFError):
            return _start_once(memory_bytes)
    raise KneeGradeError(
        "The decoding process could not be started; check the installation and the memory limit.", code="decoder_start"
    )


def _start_once(memory_bytes: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(PACKAGE_ROOT), str(memory_bytes)],
        bufsize=0,  # no buffer: a buffer has a lock, which a fork could copy in the locked state
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **SINGLE_THREAD_ENV},
    )
    try:
        with killed_when_stuck(process, START_SECONDS):
            receive(cast(BinaryIO, process.stdout))
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        cast(BinaryIO, stream).close()


def _exit_error(returncode: int | None, reason: Reason | None, limits: Limits) -> KneeGradeError:
    if returncode == cpu_limit.EXIT_STATUS != 0:
        return LimitExceededError(
            "Decoding the file took more processor time than an image of its size needs: the file is damaged.",
            code="time",
        )
    if reason == "stuck":
        return LimitExceededError(
            f"Decoding the file made no progress for the allowed {limits.child_seconds:g} s; check the disk, and try "
            "the file again.",
            code="time",
        )
    if reason == "too_long":
        return LimitExceededError(
            "Decoding the file took too long: the computer is overloaded, or the file is damaged. Try the file again.",
            code="time",
        )
    if reason == "stopped":
        return UnreadableFileError(
            "Another program stopped the decoder while it read this file; try the file again.", code="decoder_died"
        )
    return UnreadableFileError(
        f"The decoder crashed on this file (exit status {returncode}): the file is damaged or needs too much memory.",
        code="decoder_died",
    )


def _error_in(answer: dict[str, Any]) -> KneeGradeError:
    """The exception that the child process reported; an unknown class name gives a plain `KneeGradeError`."""
    error_class = getattr(errors, str(answer["error"]), KneeGradeError)
    if not (isinstance(error_class, type) and issubclass(error_class, KneeGradeError)):
        error_class = KneeGradeError
    return error_class(str(answer["message"]), code=str(answer["code"]))


_shared = DecodingProcess()


def decoding_process() -> DecodingProcess:
    """The decoding process shared by all calls in this interpreter."""
    return _shared


def _reset_after_fork() -> None:
    """Give a forked child its own decoding process: the parent's pipes and lock must not be used by the child."""
    global _shared
    _shared.detach()
    _shared = DecodingProcess()


def _close_at_exit() -> None:
    _shared.close()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
