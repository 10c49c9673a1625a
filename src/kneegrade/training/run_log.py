"""`RunLog`: the log of a training run, as JSON lines and as TensorBoard events."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kneegrade.files import not_writable, replacing


class RunLog:
    """Writes entries to `log.jsonl` and to `tensorboard/` while it is open.

    Args:
        directory: directory of the run; None to write nothing.
        steps_done: optimiser steps done before. Entries beyond them, which a stopped run wrote after its last
            checkpoint, are removed when the log is opened, because those steps are repeated.
        name: name of the network if several are trained one after the other in the directory. It is written into every
            entry, events go to a folder of that name, and entries of other networks are not removed.
    """

    def __init__(self, directory: Path | None, steps_done: int = 0, name: str | None = None) -> None:
        self.directory, self.steps_done, self.name = directory, steps_done, name
        self._events: Any = None

    def __enter__(self) -> "RunLog":
        if self.directory is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._remove_repeated_steps(self.directory / "log.jsonl")
            folder = self.directory / "tensorboard" / (self.name or "")
            self._events = SummaryWriter(str(folder), purge_step=self.steps_done + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def write(self, step: int, entry: dict[str, Any]) -> None:
        """Add an entry.

        Args:
            step: optimiser steps done.
            entry: numbers by name, nested mappings allowed.

        Raises:
            UsageError: the log cannot be written.
        """
        if self.directory is None:
            return
        head: dict[str, Any] = {"time": round(time.time(), 1), "step": step}
        if self.name is not None:
            head["network"] = self.name
        try:
            with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(head | entry) + "\n")
        except OSError as error:
            raise not_writable("log.jsonl", error) from error
        for name, value in _numbers(entry):
            self._events.add_scalar(name, value, step)

    def _remove_repeated_steps(self, path: Path) -> None:
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            with replacing(path) as stream:
                stream.writelines(line for line in lines if self._is_kept(line))

    def _is_kept(self, line: str) -> bool:
        """Whether an entry stays; an incomplete line does not."""
        try:
            entry = json.loads(line)
            return entry.get("network") != self.name or int(entry["step"]) <= self.steps_done
        except (ValueError, KeyError):
            return False


def _numbers(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """(name, value) of all numbers of a nested mapping; a name is the path, joined by slashes."""
    found = []
    for key, value in entry.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}/")
        else:
            found.append((prefix + key, float(value)))
    return found
