"""`write_landmarks`: the landmarks of many films in the formats that other programs read.

Beside the grades' corridor: files → knees → `.pts`, KNEEL's CSV, COCO keypoints JSON, pictures to look at.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from kneegrade.anatomy import Knee, LandmarkDetector, measure
from kneegrade.anatomy.coco import CocoFilm, CocoKnee, write_coco
from kneegrade.anatomy.kneel import kneel_row, write_kneel_csv
from kneegrade.anatomy.overlay import overlay
from kneegrade.anatomy.pts import write_pts
from kneegrade.errors import UsageError
from kneegrade.finding import FoundFilm, Said, find_film
from kneegrade.imaging import Source, stem_of
from kneegrade.reporting import make_directory
from kneegrade.results import JointSpace

LANDMARK_FORMATS = ("pts", "csv", "coco", "png")
KNEEL_FILE, COCO_FILE = "landmarks.csv", "landmarks.json"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class OutlinedKnee:
    """One row of what was found: the knee and its measures."""

    knee: Knee
    joint_space: JointSpace


@dataclass(frozen=True)
class OutlinedFilm:
    """One film of a run: `film` without its pixels, its knees but for those that are none, and its stem among files."""

    film: FoundFilm
    knees: tuple[OutlinedKnee, ...]
    stem: str


def write_landmarks(
    sources: Iterable[Source], directory: Path, formats: Sequence[str], detector: LandmarkDetector,
    said: Said | None = None, progress: Progress | None = None,
) -> list[OutlinedFilm]:  # fmt: skip
    """Find the knees of all sources, write their landmarks, and return what was found, in order.

    `pts` and `png` write a file per film with knees, `NAME.pts` (the right knee's 74 points first where there are two)
    and `NAME.landmarks.png`; `csv` writes `landmarks.csv`, `coco` writes `landmarks.json`. Each file appears whole or
    not at all; a film that cannot be read is a row with its reason.

    Args:
        sources: from `kneegrade.imaging.find_sources`.
        directory: where files go; made if missing.
        formats: any of `LANDMARK_FORMATS`.
        detector: finds the knees.
        said: what the user says of the films.
        progress: called with the number of films done.

    Raises:
        UsageError: an unknown format.
    """
    if not formats or set(formats) - set(LANDMARK_FORMATS):
        raise UsageError(f"Landmark formats {','.join(formats)!r}: choose among {','.join(LANDMARK_FORMATS)}.")
    make_directory(directory)
    films: list[OutlinedFilm] = []
    coco: list[CocoFilm] = []
    stems: set[str] = set()
    for source in sources:
        found = find_film(source, detector, said or Said())
        film = _outlined(found, stems)
        if film.knees and "pts" in formats:
            write_pts(_place(directory, film.stem, "pts"), np.stack([k.knee.landmarks_px for k in film.knees]))
        if film.knees and "png" in formats:
            _write_picture(_place(directory, film.stem, "landmarks.png"), found, film.knees)
        if found.radiograph is not None:
            knees = (k.knee for k in film.knees)
            shown = tuple(CocoKnee(k.side, k.landmarks_px, k.outline.seen, k.landmark_confidence) for k in knees)
            height, width = found.radiograph.pixels.shape
            coco.append(CocoFilm(found.source, (height, width), shown))
        films.append(film)
        if progress:
            progress(len(films))
    if "coco" in formats:
        write_coco(directory / COCO_FILE, coco)
    if "csv" in formats:
        rows = [kneel_row(f.stem, k.knee.side, k.knee.landmarks_px) for f in films for k in f.knees]
        write_kneel_csv(directory / KNEEL_FILE, rows)
    return films


def _outlined(found: FoundFilm, stems: set[str]) -> OutlinedFilm:
    kept = [knee for knee, no in zip(found.knees, found.refusals, strict=True) if no is None or no.code != "view"]
    spacing = None if found.spacing_mm is None else found.spacing_mm[1]
    knees = tuple(OutlinedKnee(knee, measure(knee.outline, spacing)) for knee in kept)
    names = chain((stem_of(found.source), found.source), (f"{found.source}-{i}" for i in count(2)))
    stem = next(name for name in names if name not in stems)
    stems.add(stem)
    return OutlinedFilm(replace(found, radiograph=None), knees, stem)


def _place(directory: Path, stem: str, ending: str) -> Path:
    path = directory / f"{stem}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_picture(path: Path, found: FoundFilm, knees: Sequence[OutlinedKnee]) -> None:
    if found.radiograph is None:
        return
    labels = [(k.knee.outline, f"{k.knee.side} {k.knee.landmark_confidence:.2f}") for k in knees]
    partial = path.with_name(path.name + ".tmp")
    overlay(found.radiograph.pixels, labels).save(partial, format="PNG", optimize=True)
    partial.replace(path)
