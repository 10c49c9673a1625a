"""`DecodingProcess`: files are decoded where they can do no harm, in a process with a memory and a time limit.

One process serves many files, since starting one takes half a second; when it dies or is stopped, the next file
gets a fresh one. It is a plain `python -c`, not `multiprocessing`, so that a caller's script needs no
`if __name__ == "__main__"`, and it shares nothing with its parent but two pipes.

Messages between kneegrade and its decoding process: a JSON head and raw bytes, each with its length before it.

Nothing that comes back is unpickled: the process has touched a file that nobody vouches for.
"""

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

from kneegrade import errors
from kneegrade.errors import KneeGradeError, LimitExceededError, UnreadableFileError
from kneegrade.imaging.limits import MEBIBYTE, Limits
from kneegrade.imaging.radiograph import Picture

LENGTHS = struct.Struct("<QQ")


def send(stream: BinaryIO, head: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Write one message and flush it."""
    text = json.dumps(head).encode("utf-8")
    for part in (LENGTHS.pack(len(text), len(body)) + text, body):
        rest = memoryview(part)
        while rest:  # a raw pipe may take less than it is given
            rest = rest[stream.write(rest) :]
    stream.flush()


def receive(stream: BinaryIO, most: int = sys.maxsize) -> tuple[dict[str, Any], bytearray]:
    """The next message as (head, body).

    Args:
        stream: where it comes from.
        most: bytes that head and body may have; nothing is allocated for more.

    Raises:
        EOFError: the other side has gone, between messages or within one.
        ValueError: the message is longer than allowed, or its head is no JSON.
    """
    text_length, body_length = LENGTHS.unpack(read_exactly(stream, LENGTHS.size))
    if text_length + body_length > most:
        raise ValueError
    head: dict[str, Any] = json.loads(bytes(read_exactly(stream, text_length)))
    return head, read_exactly(stream, body_length)


def read_exactly(stream: BinaryIO, length: int) -> bytearray:
    """Exactly `length` bytes of the stream.

    Raises:
        EOFError: the stream ends before.
    """
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return buffer


PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kneegrade.imaging.decoding_worker import main; main(int(sys.argv[2]))"
)
BYTES_PER_PIXEL = 4
LONGEST_HEAD = MEBIBYTE
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DecodingProcess:
    """A process that decodes one file at a time, started at the first file and again whenever it has gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._memory_bytes = 0
        self._owner = os.getpid()

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def decode(self, source: Path | bytes, limits: Limits) -> Picture:
        """The picture in a file or in the bytes of one.

        Raises:
            KneeGradeError: with a reason, for whatever cannot be read.
        """
        head = {"limits": limits.as_dict(), "path": None if isinstance(source, bytes) else str(source)}
        with self._lock:
            answer, pixels = self._answer(head, source if isinstance(source, bytes) else b"", limits)
        try:
            outcome = _error(answer) if "error" in answer else Picture.from_head(answer, pixels)
        except (KeyError, TypeError, ValueError):  # a codec has written where it should not
            raise UnreadableFileError("The decoder gave no sensible answer on this file.", code="damaged") from None
        if isinstance(outcome, KneeGradeError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Stop the process, if it runs; a later `decode` starts a fresh one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            _close_pipes(process)
            process.wait()

    def abandon(self) -> None:
        """Let go of a process that belongs to the parent of this one, after a fork."""
        process, self._process = self._process, None
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # not to be waited for here

    def _answer(self, head: dict[str, Any], body: bytes, limits: Limits) -> tuple[dict[str, Any], bytearray]:
        """The answer to one request. Only a fresh process can blame its death on the file, hence the second try."""
        is_fresh = self.pid is None
        try:
            return self._ask(head, body, limits)
        except UnreadableFileError:
            if is_fresh:
                raise
        return self._ask(head, body, limits)

    def _ask(self, head: dict[str, Any], body: bytes, limits: Limits) -> tuple[dict[str, Any], bytearray]:
        """The answer of the process that runs, or of a fresh one, within the time limit."""
        process = self._running(limits)
        expired = threading.Event()
        timer = threading.Timer(limits.child_seconds, _stop, (process, expired))
        timer.daemon = True
        timer.start()
        try:
            send(cast(BinaryIO, process.stdin), head, body)
            return receive(cast(BinaryIO, process.stdout), BYTES_PER_PIXEL * limits.pixels + LONGEST_HEAD)
        except (EOFError, OSError, ValueError):
            self.close()
            raise _death(process.returncode, expired.is_set(), limits) from None
        except BaseException:  # interrupted within an answer: what follows in the pipe would belong to this file
            self.close()
            raise
        finally:
            timer.cancel()
            timer.join()
            if expired.is_set():
                self.close()

    def _running(self, limits: Limits) -> "subprocess.Popen[bytes]":
        if self._process is not None and (self.pid is None or self._memory_bytes != limits.child_memory_bytes):
            self.close()
        if self._process is None:
            self._process, self._memory_bytes = _start(limits.child_memory_bytes), limits.child_memory_bytes
        return self._process


def _start(memory_bytes: int) -> "subprocess.Popen[bytes]":
    """A process that has said it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(PACKAGE_ROOT), str(memory_bytes)],
        bufsize=0,  # no buffer, hence no lock that a fork could copy while it is held
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    )
    try:
        receive(cast(BinaryIO, process.stdout))
    except BaseException as error:
        process.kill()
        process.communicate()
        if isinstance(error, EOFError):
            raise KneeGradeError(
                "The decoding process could not be started; check the installation and the memory limit.",
                code="decoder_start",
            ) from None
        raise
    return process


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        cast(BinaryIO, stream).close()


def _stop(process: "subprocess.Popen[bytes]", expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _death(returncode: int | None, is_expired: bool, limits: Limits) -> KneeGradeError:
    if is_expired:
        return LimitExceededError(
            f"Decoding the file took longer than the allowed {limits.child_seconds:g} s.", code="time"
        )
    return UnreadableFileError(
        f"The decoder broke down on this file (exit status {returncode}): it is damaged or asks for too much memory.",
        code="decoder_died",
    )


def _error(answer: dict[str, Any]) -> KneeGradeError:
    kind = getattr(errors, str(answer["error"]), KneeGradeError)
    if not (isinstance(kind, type) and issubclass(kind, KneeGradeError)):
        kind = KneeGradeError
    return kind(str(answer["message"]), code=str(answer["code"]))


_shared = DecodingProcess()


def decoding_process() -> DecodingProcess:
    """The process that this interpreter's readings share."""
    return _shared


def _renew() -> None:
    """Give a forked child a process of its own: pipes and a lock of the parent's are not its to use."""
    global _shared
    _shared.abandon()
    _shared = DecodingProcess()


def _close() -> None:
    _shared.close()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
