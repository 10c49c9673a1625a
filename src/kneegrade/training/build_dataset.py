"""`build_dataset`: crop the knees of a manifest into a dataset, film by film, in several processes, resumable."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy import Knee, LandmarkDetector, UserLandmarks, knees_from_landmarks
from kneegrade.anatomy.geometry import ROI_PLATEAU_WIDTHS
from kneegrade.anatomy.knee import refusal
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.anatomy.pixel_aspect import with_square_pixels
from kneegrade.anatomy.polarity import has_doubtful_polarity
from kneegrade.cohorts.manifest import target_distributions
from kneegrade.errors import KneeGradeError, RecipeError
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.progress import Progress
from kneegrade.training.dataset import DATASET_PLATEAU_WIDTHS, DATASET_PX, PENDING, DatasetWriter, crop_knee
from kneegrade.training.parallel import parallel_map
from kneegrade.weights import read_description, shipped_path

MIN_LANDMARK_WEIGHT = 0.1  # of a knee whose `landmark_confidence` in the manifest is 0
FLUSH_FILMS = 32

LocatedKnees = dict[
    str, tuple[NDArray[np.float64], float, float]
]  # side → landmarks (74, 2) in film pixels, their weight, and the stretch of the film
CroppedKnee = tuple[
    NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], float
]  # arguments of `DatasetWriter.put`


@dataclass(frozen=True, eq=False)
class FilmTask:
    """One film and the knees to crop from it.

    Attributes:
        path: of the film.
        rows: of the knees in the dataset.
        sides: "R", "L" or "unknown" of each knee.
        landmarks_px: (74, 2) of each knee in film pixels, or None where the detector has to find them.
        pixel_aspect: stretch of the film that belongs to `landmarks_px` of each knee (see `Knee`).
        landmark_weight: of each knee; replaced by the detector's confidence where the detector finds the landmarks.
        extent_in_plateau_widths: side of a picture in plateau widths.
        user_landmarks: the user's own landmarks, if there are any for this film.
        name_in_user_landmarks: name of the film there.
    """

    path: str
    rows: tuple[int, ...]
    sides: tuple[str, ...]
    landmarks_px: tuple[NDArray[np.float64] | None, ...]
    pixel_aspect: tuple[float, ...]
    landmark_weight: tuple[float, ...]
    extent_in_plateau_widths: float
    user_landmarks: UserLandmarks | None = None
    name_in_user_landmarks: str = ""


def build_dataset(
    table: pd.DataFrame, directory: Path, *, extent_in_plateau_widths: float = DATASET_PLATEAU_WIDTHS,
    marked: UserLandmarks | None = None, workers: int = 1, progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Crop every knee of a manifest into a new dataset; if an earlier call was stopped, continue where it stopped.

    A film's landmarks are those in `marked` if there are any for this film, else those of the manifest, else those that
    the shipped detector finds. The side tells which knee of a film a row of the manifest is about. Pictures show the
    knees without the stretch of a film whose pixels are not square, as `kneegrade grade` does; for landmarks of the
    manifest, the stretch is its column `pixel_aspect`.

    Args:
        table: a validated manifest.
        directory: folder of the dataset; must not exist, and appears when the dataset is complete.
        extent_in_plateau_widths: side of a picture in plateau widths.
        marked: the user's own landmarks (`.pts` or COCO), named by the film's barcode or by an end of its path that is
            unique in the manifest.
        workers: number of processes; 1 crops in this process.
        progress: called with (films done, films in all).

    Returns:
        One line with the reason for each knee that could not be cropped; these knees are left out.

    Raises:
        RecipeError: the folder exists, another unfinished dataset is in its place, `marked` has landmarks for none of
            the films, or no knee could be cropped.
    """
    tasks = film_tasks(table, extent_in_plateau_widths, marked)
    writer = DatasetWriter(directory, len(table), _identity(tasks))
    pending = set(writer.rows(PENDING).tolist())
    open_tasks = [task for task in tasks if pending.intersection(task.rows)]
    done = len(tasks) - len(open_tasks)
    for number, (task, knees) in enumerate(parallel_map(crop_film, open_tasks, workers), start=1):
        for row, side, knee in zip(task.rows, task.sides, knees, strict=True):
            if isinstance(knee, str):
                writer.skip(row, f"{task.path}, {side}: {knee}")
            else:
                writer.put(row, *knee)
        if number % FLUSH_FILMS == 0:
            writer.flush()
        if progress:
            progress(done + number, len(tasks))
    subject, split, source = (table[name].to_numpy(dtype=str) for name in ("subject_id", "split", "source"))
    return writer.close(target_distributions(table), subject, split, source)


def knee_picture(row: pd.DataFrame) -> NDArray[np.uint8] | None:
    """(384, 384) uint8 picture of the knee in a table of one row, in the extent that networks read.

    None where the table names no film or side, the film cannot be read, or the knee is not found on it.

    Args:
        row: a manifest with one row; without landmarks the shipped detector looks for the knee.
    """
    if not {"image_path", "side"} <= set(row.columns) or not Path(str(row["image_path"].iloc[0])).is_file():
        return None
    knee = crop_film(film_tasks(row, ROI_PLATEAU_WIDTHS)[0])[0]
    return None if isinstance(knee, str) else knee[0]


def film_tasks(
    table: pd.DataFrame, extent_in_plateau_widths: float, marked: UserLandmarks | None = None
) -> list[FilmTask]:
    """A task for each film of a manifest, in the order of first appearance."""
    number = len(table)
    landmarks = table["landmarks_px"] if "landmarks_px" in table.columns else pd.Series([None] * number)
    confidence = table["landmark_confidence"] if "landmark_confidence" in table.columns else pd.Series([1.0] * number)
    aspect = table["pixel_aspect"].fillna(1.0) if "pixel_aspect" in table.columns else pd.Series([1.0] * number)
    sides = table["side"] if "side" in table.columns else pd.Series(["R"] * number)
    weight = confidence.fillna(1.0).clip(lower=MIN_LANDMARK_WEIGHT).to_numpy()
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(table["image_path"]):
        rows_of.setdefault(str(path), []).append(row)
    names = {} if marked is None else _names_in_user_landmarks(table, list(rows_of), marked)
    return [
        FilmTask(
            path, tuple(rows), tuple(str(sides.iloc[row]) for row in rows),
            tuple(_points(landmarks.iloc[row]) for row in rows), tuple(float(aspect.iloc[row]) for row in rows),
            tuple(float(weight[row]) for row in rows), extent_in_plateau_widths,
            marked if path in names else None, names.get(path, ""),
        )
        for path, rows in rows_of.items()
    ]  # fmt: skip


def _names_in_user_landmarks(table: pd.DataFrame, paths: list[str], marked: UserLandmarks) -> dict[str, str]:
    """Path of a film → its name in `marked`: its barcode, or the longest end of its path that no other film has.

    Raises:
        RecipeError: `marked` has landmarks for none of the films.
    """
    barcodes = dict(zip(table["image_path"], table["barcode"], strict=True)) if "barcode" in table.columns else {}
    parts = {path: [part for part in Path(path).parts if part != Path(path).anchor] for path in paths}
    ends = {path: ["/".join(own[i:]) for i in range(len(own))] for path, own in parts.items()}
    shared = Counter(end for path in paths for end in ends[path])
    candidates = {
        path: [name for name in (str(barcodes.get(path) or ""), *ends[path]) if name and shared[name] < 2]
        for path in paths
    }
    names = {path: name for path in paths if (name := marked.first(candidates[path])) is not None}
    if not names:
        raise RecipeError(
            f"{marked.path} contains no landmarks for any of the {len(paths)} films. Name landmark files like the "
            f"film's barcode or the end of its path, for example {', '.join(candidates[paths[0]][-2:])}."
        )
    return names


def _points(value: object) -> NDArray[np.float64] | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return np.asarray(value, dtype=np.float64).reshape(NUM_LANDMARKS, 2)


def _identity(tasks: list[FilmTask]) -> str:
    """A digest of everything that the pictures depend on, except for the content of the films."""
    digest = hashlib.sha256(f"{DATASET_PX} {read_description(shipped_path('detector'))['sha256']}".encode())
    for task in tasks:
        digest.update(
            f"{task.path} {task.rows} {task.sides} {task.pixel_aspect} {task.landmark_weight} "
            f"{task.extent_in_plateau_widths} {task.user_landmarks or ''}".encode()
        )
        files = () if task.user_landmarks is None else task.user_landmarks.files(task.name_in_user_landmarks)
        for file in files:
            digest.update(_digest(file, file.stat().st_mtime_ns))
        for points in task.landmarks_px:
            digest.update(b"none" if points is None else points.tobytes())
    return f"knees of {len(tasks)} films, {digest.hexdigest()}"


@cache
def _digest(file: Path, changed_ns: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def crop_film(task: FilmTask) -> list[CroppedKnee | str]:
    """For each knee of a task what `DatasetWriter.put` takes, or the reason why the knee cannot be cropped."""
    try:
        radiograph = read_radiograph(Path(task.path))
        if has_doubtful_polarity(radiograph):
            radiograph = _detector().settle_polarity(radiograph)
        located = _locate(task, radiograph)
        return [_crop(task, index, radiograph, located) for index in range(len(task.rows))]
    except KneeGradeError as error:
        return [error.message] * len(task.rows)
    except Exception as error:  # one unusual film must not end hours of work
        return [f"unexpected {type(error).__name__}: {error}"] * len(task.rows)


def _crop(task: FilmTask, index: int, radiograph: Radiograph, located: LocatedKnees) -> CroppedKnee | str:
    """Knee `index` of a task, at located landmarks if there are any, else at the manifest's; or why there is none."""
    side, points = task.sides[index], task.landmarks_px[index]
    weight, aspect = task.landmark_weight[index], task.pixel_aspect[index]
    if points is None or side in located:
        if side not in located:
            sought = "single" if side == "unknown" else side
            return f"no {sought} knee that can be graded was found on this film"
        points, weight, aspect = located[side]
    pixels, to_square = with_square_pixels(radiograph.pixels, aspect)
    points = points @ to_square[:, :2].T + to_square[:, 2]
    try:
        return (*crop_knee(pixels, points, task.extent_in_plateau_widths), weight)
    except KneeGradeError as error:
        return error.message


def _locate(task: FilmTask, radiograph: Radiograph) -> LocatedKnees:
    """The knees that the user marked, and those that the detector has to find."""
    located: LocatedKnees = {}
    if task.user_landmarks is not None:
        points = task.user_landmarks.of(task.name_in_user_landmarks, radiograph)
        located = _by_side(task, knees_from_landmarks(radiograph, points, DATASET_PX)[0])
    unmarked = {side for points, side in zip(task.landmarks_px, task.sides, strict=True) if points is None}
    if missing := unmarked - located.keys():
        detected = _by_side(task, _detector().find(radiograph)[0])
        located |= {side: knee for side, knee in detected.items() if side in missing}
    return located


def _by_side(task: FilmTask, knees: tuple[Knee, ...]) -> LocatedKnees:
    """The gradable knees by side.

    The only knee of a film is taken for the requested one if the task requests a single knee and the side of one of
    them is unknown.
    """
    single = len(task.rows) == len(knees) == 1 and "unknown" in (knees[0].side, task.sides[0])
    return {
        task.sides[0] if single else knee.side: (knee.landmarks_px, knee.landmark_confidence, knee.pixel_aspect)
        for knee in knees
        if refusal(knee) is None
    }


@cache
def _detector() -> LandmarkDetector:
    return LandmarkDetector()
