"""`build_dataset`: the knees of a manifest, cut once, film by film, in several processes, going on where it stopped."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy import Knee, LandmarkDetector, UserLandmarks, knees_from_landmarks
from kneegrade.anatomy.knee import refusal
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.cohorts.manifest import target_distributions
from kneegrade.errors import KneeGradeError, RecipeError
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.training.dataset import DATASET_PLATEAU_WIDTHS, DATASET_PX, PENDING, DatasetWriter, crop_knee
from kneegrade.training.parallel import spread
from kneegrade.weights import read_description, shipped_path

LEAST_TRUST = 0.1  # of a knee whose manifest says `landmark_confidence` 0
FLUSH_FILMS = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class FilmTask:
    """One film and the knees wanted of it.

    Attributes:
        path: of the film.
        rows: in the store.
        sides: "R" or "L" of each.
        landmarks_px: (74, 2) of each, in film pixels, or None where they are to be found.
        trust: of each; of landmarks to be found, the detector says.
        widths: plateau widths that a picture spans.
        marked: the user's own landmarks, if there are any of this film.
        marked_as: what the film is called there.
    """

    path: str
    rows: tuple[int, ...]
    sides: tuple[str, ...]
    landmarks_px: tuple[NDArray[np.float64] | None, ...]
    trust: tuple[float, ...]
    widths: float
    marked: UserLandmarks | None = None
    marked_as: str = ""


Found = dict[str, tuple[NDArray[np.float64], float]]
CroppedKnee = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], float]


def build_dataset(
    table: pd.DataFrame, directory: Path, *, widths: float = DATASET_PLATEAU_WIDTHS,
    marked: UserLandmarks | None = None, workers: int = 1, progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Cut every knee of a manifest into the new store `directory`; a second call goes on where the first was stopped.

    Landmarks are those of `marked` that are named like a film, else the manifest's, else what the shipped detector
    finds on the film. The knees of a film are told apart by side.

    Args:
        table: a validated manifest.
        directory: must not exist; it appears whole at the end.
        widths: plateau widths that a picture spans.
        marked: landmarks of films, `.pts` or COCO, named by the film's barcode or by an end of its path that no other
            film of the manifest has.
        workers: processes; 1 works in this one.
        progress: called with (films done, all).

    Returns:
        One line per knee that could not be cut, with the reason; those are left out.

    Raises:
        RecipeError: the folder exists already, another unfinished store stands there, `marked` fits no film, or not one
            knee could be cut.
    """
    tasks = film_tasks(table, widths, marked)
    writer = DatasetWriter(directory, len(table), identity=_identity(tasks))
    pending = set(writer.rows(PENDING).tolist())
    left = [task for task in tasks if pending.intersection(task.rows)]
    done = len(tasks) - len(left)
    for number, (task, knees) in enumerate(spread(crop_film, left, workers), start=1):
        for row, side, knee in zip(task.rows, task.sides, knees, strict=True):
            if isinstance(knee, str):
                writer.skip(row, f"{task.path}, {side}: {knee}")
            else:
                writer.put(row, *knee)
        if number % FLUSH_FILMS == 0:
            writer.flush()
        if progress:
            progress(done + number, len(tasks))
    identity = (table[name].to_numpy(dtype=str) for name in ("subject_id", "split", "source"))
    return writer.close(target_distributions(table), *identity)


def film_tasks(table: pd.DataFrame, widths: float, marked: UserLandmarks | None = None) -> list[FilmTask]:
    """The films of a manifest in order, each with its knees."""
    number = len(table)
    landmarks = table["landmarks_px"] if "landmarks_px" in table.columns else pd.Series([None] * number)
    trust = table["landmark_confidence"] if "landmark_confidence" in table.columns else pd.Series([1.0] * number)
    sides = table["side"] if "side" in table.columns else pd.Series(["R"] * number)
    believed = trust.fillna(1.0).clip(lower=LEAST_TRUST).to_numpy()
    groups: dict[str, list[int]] = {}
    for row, path in enumerate(table["image_path"]):
        groups.setdefault(str(path), []).append(row)
    known = {} if marked is None else _marked(table, list(groups), marked)
    return [
        FilmTask(
            path, tuple(rows), tuple(str(sides.iloc[row]) for row in rows),
            tuple(_points(landmarks.iloc[row]) for row in rows), tuple(float(believed[row]) for row in rows), widths,
            marked if path in known else None, known.get(path, ""),
        )
        for path, rows in groups.items()
    ]  # fmt: skip


def _marked(table: pd.DataFrame, paths: list[str], marked: UserLandmarks) -> dict[str, str]:
    """Film → what its landmarks are called: its barcode, or the longest end of its path that no other film has.

    Raises:
        RecipeError: there are none of any film.
    """
    barcodes = dict(zip(table["image_path"], table["barcode"], strict=True)) if "barcode" in table.columns else {}
    parts = {path: [part for part in Path(path).parts if part != Path(path).anchor] for path in paths}
    ends = {path: ["/".join(own[i:]) for i in range(len(own))] for path, own in parts.items()}
    shared = Counter(end for path in paths for end in ends[path])
    names = {
        path: [name for name in (str(barcodes.get(path) or ""), *ends[path]) if name and shared[name] < 2]
        for path in paths
    }
    found = {path: name for path in paths if (name := marked.first(names[path])) is not None}
    if not found:
        raise RecipeError(
            f"{marked.path} holds no landmarks of any of the {len(paths)} films; they are looked for by barcode and by "
            f"the end of a film's path, as in {', '.join(names[paths[0]][-2:])}."
        )
    return found


def _points(value: object) -> NDArray[np.float64] | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return np.asarray(value, dtype=np.float64).reshape(NUM_LANDMARKS, 2)


def _identity(tasks: list[FilmTask]) -> str:
    """A digest of everything that the pictures of a store depend on, but for the bytes of the films."""
    digest = hashlib.sha256(f"{DATASET_PX} {read_description(shipped_path('detector'))['sha256']}".encode())
    for task in tasks:
        digest.update(f"{task.path} {task.rows} {task.sides} {task.trust} {task.widths} {task.marked or ''}".encode())
        for file in () if task.marked is None else task.marked.files(task.marked_as):
            digest.update(_digest(file, file.stat().st_mtime_ns))
        for points in task.landmarks_px:
            digest.update(b"none" if points is None else points.tobytes())
    return f"knees of {len(tasks)} films, {digest.hexdigest()}"


@cache
def _digest(file: Path, changed: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def crop_film(task: FilmTask) -> list[CroppedKnee | str]:
    """Of each knee wanted: picture, landmarks there, which lie on the film, and trust; or why it cannot be cut."""
    try:
        radiograph = read_radiograph(Path(task.path))
        found = _found(task, radiograph)
        return [_cut(task, index, radiograph, found) for index in range(len(task.rows))]
    except KneeGradeError as error:
        return [error.message] * len(task.rows)
    except Exception as error:  # one odd film must not end hours of work
        return [f"unexpected {type(error).__name__}: {error}"] * len(task.rows)


def _cut(task: FilmTask, index: int, radiograph: Radiograph, found: Found) -> CroppedKnee | str:
    """Knee `index` of a task, with the landmarks wanted or found, or why it cannot be cut."""
    side, points, trust = task.sides[index], task.landmarks_px[index], task.trust[index]
    if points is None or side in found:
        if side not in found:
            return f"no {side} knee that can be graded was found on this film"
        points, trust = found[side]
    try:
        return (*crop_knee(radiograph.pixels, points, task.widths), trust)
    except KneeGradeError as error:
        return error.message


def _found(task: FilmTask, radiograph: Radiograph) -> Found:
    """Side → landmarks and confidence of the knees that the user marked, and of others where the detector must look."""
    found: Found = {}
    if task.marked is not None:
        found = _by_side(
            task, knees_from_landmarks(radiograph, task.marked.of(task.marked_as, radiograph), DATASET_PX)[0]
        )
    unmarked = {side for points, side in zip(task.landmarks_px, task.sides, strict=True) if points is None}
    if wanted := unmarked - found.keys():
        seen = _by_side(task, _detector().find(radiograph)[0])
        found |= {side: knee for side, knee in seen.items() if side in wanted}
    return found


def _by_side(task: FilmTask, knees: tuple[Knee, ...]) -> Found:
    """The knees that can be graded; where one is wanted and one is there whose side cannot be told, it is that one."""
    only = len(task.rows) == len(knees) == 1 and knees[0].side == "unknown"
    return {
        task.sides[0] if only else knee.side: (knee.landmarks_px, knee.landmark_confidence)
        for knee in knees
        if refusal(knee) is None
    }


@cache
def _detector() -> LandmarkDetector:
    return LandmarkDetector()
