"""A fake MOST: its one table and its folders of films, with phantoms in place of people; see `fake_oai`."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kneegrade.cohorts.fake_oai import FakeOptions
from kneegrade.cohorts.most import COLUMNS as MOST_COLUMNS
from kneegrade.cohorts.most import LETTERS
from kneegrade.phantom import DicomOptions, render_film, write_film
from kneegrade.schema import TARGETS

NAME = "MOSTV01235XRAY.txt"
VISITS = ("0", "2")


def write_fake_most(root: Path, options: FakeOptions, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the table, films of two visits and `planted.json` below `root`.

    Planted: half grades such as 1.9, the codes 8 and 9, letters, films of another view beside those of PA 10°.
    """
    root.mkdir(parents=True, exist_ok=True)
    planted: Counter[str] = Counter()
    header = ["MOSTID", *(f"V{visit}X{side}{end}" for visit in VISITS for side in "RL" for end in MOST_COLUMNS.values())]
    rows = []
    for person in range(options.subjects):
        subject = f"MB{person + 1:05d}"
        film = render_film(options.seed, person, options.film)
        cells = [subject]
        for visit in VISITS:
            rng = np.random.default_rng([options.seed, person, int(visit), 7])
            for shown in film.knees:
                cells += _cells(shown.knee.grades, rng, planted)
        rows.append(cells)
        for visit in VISITS:
            for view in ("PA10", "PA05") if person % 4 == 0 else ("PA10",):
                folder = root / "images" / f"{subject}_X" / f"V{visit}" / view
                folder.mkdir(parents=True, exist_ok=True)
                write_film(folder / "00001.dcm", film, DicomOptions(compression="none"))
                planted["films of PA 10°" if view == "PA10" else "films of another view"] += 1
        if progress:
            progress(person + 1, options.subjects)
    text = "\r\n".join("\t".join(row) for row in [header, *rows]) + "\r\n"
    (root / NAME).write_bytes(text.encode("latin-1"))
    (root / "planted.json").write_text(json.dumps(dict(sorted(planted.items())), indent=1) + "\n", encoding="utf-8")


def _cells(grades: Mapping[str, int], rng: np.random.Generator, planted: Counter[str]) -> list[str]:
    """The seven grades of a knee as text."""
    cells = []
    for target in TARGETS:
        value, draw = grades[target.name], rng.random()
        if draw < 0.03:
            cells.append(str(rng.choice([8, 9])))
            planted["codes 8 and 9"] += 1
        elif draw < 0.05:
            cells.append(str(rng.choice(LETTERS)))
            planted["letters"] += 1
        elif draw < 0.09 and target.name != "kl":
            cells.append(f"{value}.9")
            planted["half grades"] += 1
        else:
            cells.append(str(value))
    return cells
