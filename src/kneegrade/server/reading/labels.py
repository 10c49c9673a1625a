"""Labels from readings: tables that `cohort csv`, `audit`, `calibrate`, `train` and `agreement` take.

`labels.csv` and `labels.parquet` have a row per knee that was read and is gradable, with the grades that stand (see
`standing_readings`). `labels.parquet` is a manifest, with the corrected landmarks. `readings.csv` has every finished
reading by itself.

A film that is not on the disk keeps its rows, with the path that it had when it was graded. A film from an archive has
the path of the archive, then that of the member; it has no row in `labels.parquet`, which needs films on the disk.
Where another content is at the path of a film that is not found, the film has no labels: they would be of that other
film. `readings.csv` has its readings without a path.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from kneegrade.cohorts.build_manifest import manifest_from_readings
from kneegrade.errors import CohortError, KneeGradeError
from kneegrade.files import replacing
from kneegrade.imaging import stem_of
from kneegrade.schema import TARGET_NAMES
from kneegrade.server.reading.reading_comparison import is_finished
from kneegrade.server.reading.reading_desk import ReadingStore
from kneegrade.server.reading.reading_film import ListedFilm, pixel_aspect_of
from kneegrade.server.reading.standing_readings import standing_readings, waiting_films
from kneegrade.spreadsheet_cells import escape_formula

LABEL_FILES: Final = ("labels.csv", "labels.parquet", "readings.csv")
LABEL_COLUMNS: Final = (
    "image_path", "subject_id", "side", "visit", *TARGET_NAMES, "reader", "time", "revision", "status", "study",
)  # fmt: skip
READING_COLUMNS: Final = (
    "film", "knee", "image_path", "subject_id", "side", "visit", "study", "reader", "repeat", *TARGET_NAMES,
    "gradable", "reason", "status",
    "landmarks_moved", "time", "revision",
)  # fmt: skip
MACHINE: Final = "kneegrade"  # reader of the rows with the results of kneegrade

FILM_IS: Final = "film_is"  # field of a row of `label_rows`: "on_disk", "in_archive" or "missing"
REPLACED: Final = "replaced"  # in place of these, for a film at whose path another content is

Row = dict[str, Any]


@runtime_checkable
class RecordsPaths(Protocol):
    """A store that knows where films were when they were graded."""

    def recorded_path(self, key: str) -> str:
        """The path of a film when it was graded; raises KeyError if there is none."""


def label_rows(store: ReadingStore) -> Iterator[Row]:
    """A row per gradable knee with a finished reading, whose film is one of the results; see `FILM_IS`."""
    for key, review in standing_readings(store).items():
        try:
            film = store.listed(key)
        except KeyError:
            continue
        path, film_is = _film_path(store, film)
        if film_is == REPLACED:
            continue
        for number, knee in enumerate(review.reading["knees"]):
            if knee["gradable"]:
                yield {
                    "image_path": path, "subject_id": _person(film), FILM_IS: film_is,
                    "side": "" if knee["side"] == "unknown" else knee["side"], "visit": film.visit or 0,
                    **{name: knee["grades"].get(name) for name in TARGET_NAMES},
                    "reader": review.reader, "time": review.time, "revision": review.revision,
                    "status": review.reading["status"], "study": review.stream.study,
                    **_landmarks(store, key, number, knee),
                }  # fmt: skip


def _film_path(store: ReadingStore, film: ListedFilm) -> tuple[str, str]:
    """The path of a film and a value of `FILM_IS`, or "" and `REPLACED`."""
    recorded = store.recorded_path(film.key) if isinstance(store, RecordsPaths) else film.name
    try:
        path = store.content(film.key).path
    except (KeyError, KneeGradeError):
        return ("", REPLACED) if Path(recorded).is_file() else (recorded, "missing")
    return (recorded, "in_archive") if path is None else (str(path.absolute()), "on_disk")


def label_notes(store: ReadingStore, directory: Path) -> list[str]:
    """What a user must know about the labels in `directory`: films that are missing, in archives or not in results."""
    films: dict[str, set[str]] = {"missing": set(), "in_archive": set()}
    has_manifest = False
    for row in label_rows(store):
        films.setdefault(row[FILM_IS], set()).add(row["image_path"])
        has_manifest |= bool(row["side"]) and row[FILM_IS] != "in_archive"
    unlisted, replaced = 0, []
    for key in standing_readings(store):
        try:
            film = store.listed(key)
        except KeyError:
            unlisted += 1
            continue
        if _film_path(store, film)[1] == REPLACED:
            replaced.append(film.name)
    notes = []
    if lost := sorted(films["missing"]):
        notes.append(
            f"{len(lost)} read films are not where they were graded (the first: {lost[0]}). Their labels have the old "
            "paths. Give the folder of the films with --films to write the new ones."
        )
    if replaced:
        notes.append(
            f"{len(replaced)} read films are not found, and files with another content have their names (the first: "
            f"{min(replaced)}). They have no labels. Give the folder of the films with --films, or grade them again."
        )
    if films["in_archive"]:
        notes.append(
            f"{len(films['in_archive'])} read films are in archives: they are in labels.csv only. For "
            "calibration and training, unpack them and grade the folder."
        )
    for (study, reader), waiting in waiting_films(store).items():
        notes.append(
            f"{len(waiting)} films of the study {study} wait for {reader}: the study gives a film labels when all its "
            "readers have read it."
        )
    if unlisted:
        notes.append(
            f"{unlisted} read films are not among these results and have no labels; reviews.jsonl keeps their readings."
        )
    if not has_manifest and (directory / "labels.parquet").exists():
        notes.append("labels.parquet is of an earlier export and was not changed: no knee has a label for it now.")
    return notes


def _landmarks(store: ReadingStore, key: str, number: int, knee: Row) -> Row:
    """`landmarks_px` and `pixel_aspect` of a manifest: the reader's points, else those of kneegrade."""
    machine = store.film(key).knees
    own = machine[number] if number < len(machine) else None
    detected = None if own is None else own["landmarks_px"]
    points = knee["landmarks_px"] or detected
    if points is None:
        return {"landmarks_px": None, "pixel_aspect": 1.0}
    flat = [value for point in points for value in (point or (np.nan, np.nan))]
    aspect = 1.0
    if own is not None and detected is not None and own["joint_space"] is not None:
        known = np.array([point or (np.nan, np.nan) for point in detected], dtype=np.float64)
        aspect = pixel_aspect_of(known, own["joint_space"]["tibial_width_px"]["value"])
    return {"landmarks_px": flat, "pixel_aspect": aspect}


def _person(film: ListedFilm) -> str:
    return film.person or stem_of(film.name)


def reading_rows(store: ReadingStore, *, machine: bool = True) -> Iterator[Row]:
    """A row per knee and finished reading, and one with the results of kneegrade for each knee that was read.

    Args:
        store: films and log.
        machine: whether to add the rows of kneegrade.
    """
    store.log.refresh()
    films = dict[str, Row]()  # key → cells that all rows of a film have
    for stream, review in store.log.streams().items():
        if not is_finished(review):
            continue
        try:
            if stream.film not in films:
                films[stream.film] = _film_cells(store, store.listed(stream.film))
        except KeyError:
            continue
        for number, knee in enumerate(review.reading["knees"]):
            grades = knee["grades"] if knee["gradable"] else {}
            yield films[stream.film] | {
                "knee": number, "side": knee["side"], "study": stream.study, "reader": stream.reader or review.reader,
                "repeat": stream.repeat, **{name: grades.get(name) for name in TARGET_NAMES},
                "gradable": int(knee["gradable"]), "reason": knee["reason"], "status": review.reading["status"],
                "landmarks_moved": int(knee["landmarks_px"] is not None), "time": review.time,
                "revision": review.revision,
            }  # fmt: skip
    for key, cells in films.items() if machine else ():
        for number, listed in enumerate(store.listed(key).knees):
            yield cells | {
                "knee": number, "side": listed.side, "study": "", "reader": MACHINE, "repeat": 0,
                **{name: listed.grades.get(name) for name in TARGET_NAMES}, "gradable": int(bool(listed.grades)),
                "reason": "", "status": "", "landmarks_moved": 0, "time": "", "revision": 0,
            }  # fmt: skip


def _film_cells(store: ReadingStore, film: ListedFilm) -> Row:
    path, _ = _film_path(store, film)
    return {"film": film.key, "image_path": path, "subject_id": _person(film), "visit": film.visit or 0}


def table_text(columns: Iterable[str], rows: Iterable[Row]) -> str:
    """A CSV table; a grade that was not read is an empty cell."""
    names = list(columns)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = ((name, "" if row[name] is None else row[name]) for name in names)
        writer.writerow([value if name == "image_path" else escape_formula(value) for name, value in cells])
    return stream.getvalue()


def labels_manifest(store: ReadingStore, source: str = "read") -> pd.DataFrame:
    """The labels as a manifest, with knees of known side; people are split as `cohort csv` splits them.

    Films in archives are left out.

    Raises:
        CohortError: no knee with a known side has a grade.
    """
    rows = [row for row in label_rows(store) if row["side"] and row[FILM_IS] != "in_archive"]
    if not rows:
        raise CohortError("No gradable knee of a known side has been read; finish a reading first.")
    table = pd.DataFrame(rows).drop(columns=FILM_IS)
    for name in TARGET_NAMES:
        table[name] = table[name].astype("Int64")
    table["visit"] = pd.to_numeric(table["visit"], errors="coerce").fillna(0).astype(int)
    return manifest_from_readings(table, source)


def write_labels(store: ReadingStore, directory: Path) -> list[Path]:
    """The paths of `LABEL_FILES` in `directory` after they were written; without a labelled knee no manifest.

    No file is removed: without a labelled knee, a `labels.parquet` of an earlier export stays as it is.

    Raises:
        UsageError: a file cannot be written.
    """
    texts = {
        "labels.csv": table_text(LABEL_COLUMNS, label_rows(store)),
        "readings.csv": table_text(READING_COLUMNS, reading_rows(store)),
    }
    written = []
    for name, text in texts.items():
        with replacing(directory / name) as stream:
            stream.write(text)
        written.append(directory / name)
    try:
        table = labels_manifest(store)
    except CohortError:
        return written
    with replacing(directory / "labels.parquet", "wb") as stream:
        table.to_parquet(stream)
    return [*written, directory / "labels.parquet"]
