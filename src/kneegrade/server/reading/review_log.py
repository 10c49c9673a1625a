"""`ReviewLog`: what readers decided about films, as an append-only file of JSON lines.

A line is the whole reading of a film by somebody: grades, sides, moved landmarks, note and status. It is written and
flushed to the disk before it is acknowledged, and never changed. The newest revision of a stream is its state.

A stream is the sequence of readings that build on each other: one per film that all readers share, and in a study one
per reader, film and repeat. A revision names the revision it is based on; one that is based on an older state is
refused with `ConflictError`, so that two readers do not overwrite each other.

After a crash the last line may be torn. It was never acknowledged; it is passed over, and the next revision begins on
a line of its own.
"""

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final

from kneegrade.errors import KneeGradeError
from kneegrade.files import make_directory, not_writable

LOG_FILE: Final = "reviews.jsonl"
ADJUDICATION: Final = "adjudication"  # name in place of the reader of the stream that decides where readers differ
SIGNED: Final = "signed"  # status of a reading

Reading = dict[str, Any]  # JSON of `review.Reading`


@dataclass(frozen=True)
class Stream:
    """Whose readings of which film build on each other.

    Attributes:
        film: key of the film.
        study: name of a study; "" outside studies.
        reader: in a study; "" for the readings that all readers share.
        repeat: 0, and from 1 for repeated presentations of the film in a study.
    """

    film: str
    study: str = ""
    reader: str = ""
    repeat: int = 0


@dataclass(frozen=True)
class Review:
    """One revision of a stream.

    Attributes:
        stream: see there.
        revision: from 1.
        reader: who decided.
        time: UTC, ISO 8601.
        source: name of the film in the report.
        reading: grades, sides, landmarks, note and status.
    """

    stream: Stream
    revision: int
    reader: str
    time: str
    source: str
    reading: Reading


class ConflictError(KneeGradeError):
    """The stream has a newer revision than the one that a reading is based on. Remedy: merge and try again."""

    default_code = "conflict"

    def __init__(self, newest: Review) -> None:
        super().__init__(
            f"{newest.reader} saved revision {newest.revision} of this film meanwhile; merge the two readings."
        )
        self.newest = newest


class ReviewLog:
    """The readings in a file. Several threads and processes may append at the same time.

    Args:
        path: the file; created with the first reading.
        clock: the current time.

    Attributes:
        damaged: number of complete lines that could not be read, such as one torn by an earlier crash.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path, self._clock = path, clock
        self._streams: dict[Stream, list[Review]] = {}
        self._signed: dict[Stream, Review] = {}
        self._offset, self._is_torn = 0, False
        self._lock = threading.Lock()
        self.damaged = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes appended."""
        with self._lock:
            if self.path.exists():
                self._read()

    def streams(self) -> dict[Stream, Review]:
        """Stream → its newest revision."""
        with self._lock:
            return {stream: reviews[-1] for stream, reviews in self._streams.items()}

    def history(self, stream: Stream) -> list[Review]:
        """The revisions of a stream, the oldest first."""
        with self._lock:
            return list(self._streams.get(stream, ()))

    def newest(self, stream: Stream) -> Review | None:
        """The newest revision of a stream, or None."""
        history = self.history(stream)
        return history[-1] if history else None

    def signed(self) -> dict[Stream, Review]:
        """Stream → its newest signed revision, also if a later one withdrew the signature."""
        with self._lock:
            return dict(self._signed)

    def append(self, stream: Stream, reading: Reading, *, based_on: int, reader: str, source: str) -> Review:
        """The new revision, after it is on the disk.

        The same reading of the same reader that is already there is answered again, for a reader whose connection broke
        before the answer.

        Args:
            stream: to which the reading belongs.
            reading: JSON values.
            based_on: revision that the reader saw; 0 for none.
            reader: who decides.
            source: name of the film in the report.

        Raises:
            ConflictError: the stream has a newer revision.
            UsageError: the file cannot be written.
        """
        try:
            with self._lock, self._locked_file() as file:
                self._read()
                if self._is_torn:
                    self._write(file, b"\n")
                known = self._streams.get(stream)
                newest = known[-1] if known else None
                if newest is not None and newest.revision != based_on:
                    if newest.reader == reader and newest.reading == reading:
                        return newest
                    raise ConflictError(newest)
                time = self._clock().isoformat(timespec="milliseconds")
                revision = 1 if newest is None else newest.revision + 1
                self._write(file, _line(Review(stream, revision, reader, time, source, reading)))
                return self._streams[stream][-1]
        except OSError as error:
            raise not_writable(self.path.name, error) from error

    @contextmanager
    def _locked_file(self) -> Iterator[int]:
        make_directory(self.path.parent)
        is_new = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_new:
                _sync_folder(self.path.parent)
            yield file
        finally:
            os.close(file)  # releases the lock

    def _write(self, file: int, content: bytes) -> None:
        written = os.write(file, content)
        os.fsync(file)
        if written != len(content):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self._read()

    def _read(self) -> None:
        """Read the complete lines after those that are known."""
        with self.path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        *lines, rest = content.split(b"\n")
        for line in lines:
            if line:
                self._add(line)
        self._offset += len(content) - len(rest)
        self._is_torn = bool(rest)

    def _add(self, line: bytes) -> None:
        try:
            review = _review(json.loads(line))
        except (ValueError, TypeError, KeyError):
            self.damaged += 1
            return
        self._streams.setdefault(review.stream, []).append(review)
        if review.reading.get("status") == SIGNED:
            self._signed[review.stream] = review


def _line(review: Review) -> bytes:
    return json.dumps(asdict(review), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _review(values: Mapping[str, Any]) -> Review:
    fields = {name: values[name] for name in ("revision", "reader", "time", "source", "reading")}
    if not isinstance(fields["reading"], dict):
        raise TypeError("no reading")
    return Review(stream=Stream(**values["stream"]), **fields)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
