"""The log of a run: a JSON line for every entry in `log.jsonl`, and the same numbers as TensorBoard events."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kneegrade.files import replacing


class RunLog:
    """Writes entries while it is open; silent in all processes but the main one.

    Args:
        directory: the run's folder; events go to its `tensorboard/`.
        begun: optimiser steps done; what a stopped run logged beyond them is dropped, since it is done again.
        active: whether to write at all.
    """

    def __init__(self, directory: Path, begun: int = 0, active: bool = True) -> None:
        self.directory, self.begun, self.active = directory, begun, active
        self._events: Any = None

    def __enter__(self) -> "RunLog":
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self._drop_what_is_done_again()
            self._events = SummaryWriter(str(self.directory / "tensorboard"), purge_step=self.begun + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def _drop_what_is_done_again(self) -> None:
        path = self.directory / "log.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            with replacing(path) as stream:
                stream.writelines(line for line in lines if _step_of(line) <= self.begun)

    def write(self, step: int, entry: dict[str, Any]) -> None:
        """Add an entry of numbers, or of numbers by name and name, at optimiser step `step`."""
        if not self.active:
            return
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 1), "step": step, **entry}) + "\n")
        for name, value in _numbers(entry):
            self._events.add_scalar(name, value, step)


def _step_of(line: str) -> int:
    """The step of a line; a line cut short belongs to what is done again."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 2**62


def _numbers(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a nested mapping, with their path."""
    found = []
    for key, value in entry.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{key}/")
        else:
            found.append((prefix + key, float(value)))
    return found
