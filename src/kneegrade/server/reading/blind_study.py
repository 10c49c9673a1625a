"""`Study`: a blind reading, its films, and the order in which a reader sees them."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from kneegrade.errors import UsageError
from kneegrade.files import write_text

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_GAP_SHARE: Final = 0.1  # of the films that lie at least between a film and its repeat


@dataclass(frozen=True)
class Study:
    """A blind reading of films by several readers.

    Attributes:
        name: letters, digits, "-" and "_".
        films: keys.
        repeats: share of the films that each reader sees twice.
        seed: of the order and of the choice of the repeated films.
        readers: whose readings the study waits for.
    """

    name: str
    films: tuple[str, ...]
    repeats: float = 0.1
    seed: int = 0
    readers: tuple[str, ...] = ()

    def order(self, reader: str) -> list[tuple[str, int]]:
        """(key, repeat) in the order in which a reader sees them; the same at every call.

        The same films are repeated for every reader; a repeat comes after the film, with at least a tenth of the films
        in between where there are so many.
        """
        digest = hashlib.sha256(f"{self.seed}\0{self.name}\0{reader}".encode()).digest()
        own = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        films = [self.films[i] for i in own.permutation(len(self.films))]
        total, gap = len(films), max(1.0, _GAP_SHARE * len(films))
        items = [(float(place), key, 0) for place, key in enumerate(films)]
        repeated = self._repeated()
        for place, key in enumerate(films):
            if key in repeated:
                earliest = min(place + gap, float(total))
                items.append((float(own.uniform(earliest, total + 0.5)), key, 1))
        return [(key, repeat) for _, key, repeat in sorted(items, key=lambda item: item[0])]

    def _repeated(self) -> set[str]:
        number = round(self.repeats * len(self.films))
        chosen = np.random.default_rng(self.seed).permutation(len(self.films))[:number]
        return {sorted(self.films)[i] for i in chosen}


def open_study(
    directory: Path, name: str, films: list[str], *, repeats: float, seed: int, readers: Sequence[str] = ()
) -> Study:
    """The study of this name in a folder; a new one is written to `study-NAME.json`.

    Only readers are added to it afterwards.

    Args:
        directory: with the results.
        name: of the study.
        films: keys of the films of a new study.
        repeats: share of the films to repeat, of a new study.
        seed: of a new study.
        readers: who read it now.

    Raises:
        UsageError: the name is not usable, the file is damaged or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"The study's name {name!r} is not usable; use letters, digits, '-' and '_'.")
    path = directory / f"study-{name}.json"
    known = _read_study(path)
    study = Study(name, tuple(films), repeats, seed) if known is None else known
    study = replace(study, readers=tuple(dict.fromkeys([*study.readers, *readers])))
    if study != known:
        write_text(path, json.dumps(asdict(study), indent=1) + "\n")
    return study


def study_readers(directory: Path, name: str) -> tuple[str, ...]:
    """The readers of a study in a folder; none if there is no such study.

    Raises:
        UsageError: the file of the study is damaged.
    """
    study = _read_study(directory / f"study-{name}.json") if _NAME.fullmatch(name) else None
    return () if study is None else study.readers


def _read_study(path: Path) -> Study | None:
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        films, readers = tuple(values["films"]), tuple(values.get("readers", ()))
        return Study(values["name"], films, float(values["repeats"]), int(values["seed"]), readers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path.name} is damaged; restore it, or choose another name for the study.") from error
