"""The audit log: a line of JSON for each event that somebody may have to account for, appended and never changed.

It says who sent, signed or removed what, and when; films are named by their keys. It never contains patient data.
Several processes append to the same file.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kneegrade.server.spool.spool_files import printable
from kneegrade.server.spool.spool_schema import SpoolError, index_error

AUDIT_FILE: Final = "audit.jsonl"  # in the folder of a spool
AuditValue = str | int | float | bool | Sequence[str] | None


class AuditLog:
    """Appends events to a file that only its owner can read; it is created at the first event.

    Args:
        path: of the file; `AUDIT_FILE` in the folder of a spool.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    def write(self, event: str, **values: AuditValue) -> None:
        """Append an event; it is on disk when this returns.

        Args:
            event: what happened, for example "film_received".
            values: who and what, without patient data; texts are cut at 300 characters.

        Raises:
            SpoolError: the file cannot be written; `SpoolFullError` if the disk is full.
        """
        cleaned = {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}
        entry = {"time": round(self._clock(), 3), "event": event, **cleaned}
        line = json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            raise index_error(error) from error

    def _append(self, line: bytes) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            is_torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # an entry that a kill or full disk cut off
            data = b"\n" + line if is_torn else line
            if os.write(handle, data) != len(data):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)


def read_audit_log(path: Path) -> Iterator[dict[str, Any]]:
    """The events in an audit log, the oldest first; lines that were cut off are left out.

    Raises:
        SpoolError: the file cannot be read. A file that does not exist has no events.
    """
    try:
        with path.open("rb") as stream:
            for line in stream:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolError(f"The audit log cannot be read ({error.strerror}); check its permissions.") from error
