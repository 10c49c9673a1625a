"""`film_journal`: the films of a run that is not finished, one JSON line each, for a run that never finishes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kneegrade.errors import UsageError
from kneegrade.files import not_writable
from kneegrade.reporting.json_report import radiograph_dict
from kneegrade.results import GradedRadiograph

JOURNAL: Final = "films.partial.jsonl"


@contextmanager
def film_journal(directory: Path) -> Iterator[Callable[[GradedRadiograph], None]]:
    """Yields a function that appends a film to `directory/films.partial.jsonl` and flushes it to the operating system.

    A line has the layout of an entry of `radiographs` in report.json. The file is removed when the block ends without
    an exception, because the report then has the films. With films in it, it remains if the block raises or the process
    is killed.

    Raises:
        UsageError: the file cannot be written, or the block raised a UsageError; the message names the file that
            remains.
    """
    path = directory / JOURNAL
    try:
        stream = path.open("w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise not_writable(path.name, error) from error

    def add(film: GradedRadiograph) -> None:
        try:
            stream.write(json.dumps(radiograph_dict(film), ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()
        except OSError as error:
            raise not_writable(path.name, error) from error

    is_finished = False
    try:
        yield add
        is_finished = True
    except UsageError as error:
        if not _has_films(path):
            raise
        message = f"{error.message} {JOURNAL} has the films that were graded before."
        raise UsageError(message, code=error.code) from error
    finally:
        with suppress(OSError):
            stream.close()
        with suppress(OSError):
            if is_finished or not _has_films(path):
                path.unlink(missing_ok=True)


def _has_films(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
