"""`run.json` and the lock: what all runs into one folder have in common, and that no two write the same films."""

import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from kneegrade.batch.parquet import SCHEMA_VERSION
from kneegrade.batch.shard import POSITIONS, Shard
from kneegrade.errors import UsageError
from kneegrade.files import not_writable, prepare_output, write_text
from kneegrade.version import __version__
from kneegrade.weights.compute import Precision, Runtime

RUN_FILE: Final = "run.json"
_LIBRARIES: Final = ("torch", "numpy", "scipy")  # that compute
STARTED: Final = "started"  # key of the time of the first run, which later runs keep
LOCK_FILE: Final = ".lock"
_RUN_FILE_BYTE = POSITIONS  # the byte of the lock file that is locked while run.json is compared or written
_SUMMARY_BYTE = POSITIONS + 1
_PARTS_BYTE = POSITIONS + 2  # of parts that have films of several shards


@dataclass(frozen=True)
class RunSettings:
    """What decides about the results, besides films and weights.

    Attributes:
        runtime: library that runs the networks.
        precision: of the networks.
        device: "cpu" or "cuda".
        threads: of each worker.
        side: of single knees, where the file does not state it.
        pixel_spacing_mm: where the file does not state it.
    """

    runtime: Runtime = "torch"
    precision: Precision = "float32"
    device: str = "cpu"
    threads: int = 1
    side: Literal["R", "L"] | None = None
    pixel_spacing_mm: float | None = None


def run_description(
    settings: RunSettings, weights: Mapping[str, Mapping[str, str]], inputs: list[str], columns: list[str],
    formats: Sequence[str] = (), store_at: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of run.json.

    Args:
        settings: see there.
        weights: "grader" and "detector" → `name` and `sha256`.
        inputs: absolute paths, or URLs without secrets.
        columns: names and types of the columns of the user's table.
        formats: of the DICOM and FHIR objects.
        store_at: URL of the archive that they are stored in; without one, there is no such key.
    """
    libraries = (*_LIBRARIES, "openvino") if settings.runtime == "openvino" else _LIBRARIES
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(settings),
        "versions": {
            "kneegrade": __version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
            **{name: version(name) for name in libraries},
        },
        "weights": weights,
        "inputs": inputs,
        "columns": columns,
        "formats": list(formats),
        **({} if store_at is None else {"store_at": store_at}),
        STARTED: datetime.now().astimezone().isoformat(timespec="seconds"),
    }


class OutputLock:
    """The lock file of a folder, of which a run locks the bytes at the positions of its shard's films.

    Runs on several computers may write disjoint shards into one folder, if its file system supports POSIX locks, as NFS
    version 4, Lustre and local ones do. The system releases the locks of a process that ends, however it ends.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = directory.absolute().name or str(directory)  # of "." that of the folder
        prepare_output(directory, [RUN_FILE])
        try:
            self._file = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise not_writable(self._name, error) from error

    def close(self) -> None:
        """Release all locks."""
        os.close(self._file)

    def lock_shard(self, shard: Shard) -> None:
        """Lock the films of a shard until `close`.

        Raises:
            UsageError: another run writes some of them, or the file system has no locks.
        """
        import fcntl

        start, end = shard.interval
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, end - start, start)
        except (BlockingIOError, PermissionError):
            films = "these films" if shard.count == 1 else f"films of the shard {shard}"
            raise UsageError(
                f"Another run is writing {films} to {self._name}; wait for its end, or choose another folder.",
                code="locked",
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self._name} cannot be locked ({error.strerror}) by {socket.gethostname()}; choose a "
                "folder on a file system with POSIX locks.",
                code="locked",
            ) from None

    @contextmanager
    def summary(self) -> Iterator[None]:
        """Within the block, no other run writes a summary."""
        with self._byte(_SUMMARY_BYTE):
            yield

    @contextmanager
    def parts(self) -> Iterator[None]:
        """Within the block, no other run changes part files that have films of several shards."""
        with self._byte(_PARTS_BYTE):
            yield

    @contextmanager
    def _byte(self, number: int) -> Iterator[None]:
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def fix(self, description: dict[str, Any]) -> dict[str, Any]:
        """The content of run.json: the description, or that of an earlier run, which differs in `started` only.

        Raises:
            UsageError: an entry has another value.
        """
        path = self._directory / RUN_FILE
        with self._byte(_RUN_FILE_BYTE):
            if not path.exists():
                write_text(path, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
                return description
            try:
                earlier = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                earlier = None
        if not isinstance(earlier, dict):
            raise UsageError(f"{path.name} in {self._name} is damaged; choose another output folder.")
        differing = list(_differences(earlier, description | {STARTED: earlier.get(STARTED)}))
        if differing:
            raise UsageError(
                f"{self._name} was begun with another value of {'; '.join(differing)}. Results of two kinds "
                "are not mixed: use the earlier values, or another output folder.",
                code="other_run",
            )
        return earlier


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key in sorted({*earlier, *now}):
        before, after = earlier.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{path}{key}.")
        elif before != after:
            yield f"{path}{key} ({_shown(before)} then, {_shown(after)} now)"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
