"""Landmark file formats: BoneFinder's `.pts`, KNEEL's CSV and COCO keypoints JSON.

Points are (x, y) in pixels of the film, with the centre of the first pixel at (0, 0).

`.pts` (BoneFinder): text with the landmarks of one knee (74 points) or of both knees of a film (148 points):

    version: 1
    n_points: 74
    {
    12.5 34.0
    …
    }

KNEEL CSV (Tiulpin et al., "KNEEL: knee anatomical landmark localization using hourglass networks", ICCV workshops
2019): 16 points, nine on the tibia (T0–T8) and seven on the femur (F0–F6), where index 0 is lateral. One row per knee
with the columns `subject_id, side, kl, tibia, femur, bbox, center`, points as a text "x,y,…". Files written here hold
whole pixels of the film and left knees are not mirrored; KNEEL's own table holds points relative to `bbox` and mirrors
left knees.

COCO keypoints JSON: 74 keypoints per knee, one category `knee`, the side as an extra key of each annotation. Visibility
is 2 if the film shows the point, 1 if the point is outside the film and was placed by the shape model.

Writers raise `UsageError` if the file cannot be written.
"""

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.landmark_scheme import (
    FEMUR,
    FEMUR_ARTICULAR,
    NUM_LANDMARKS,
    TIBIA,
    TIBIA_ARTICULAR,
    TIBIA_PLATEAU_LATERAL,
    TIBIA_PLATEAU_MEDIAL,
)
from kneegrade.errors import UnreadableFileError
from kneegrade.files import replacing, write_text
from kneegrade.results import Side
from kneegrade.spreadsheet_cells import escape_formula

Points = NDArray[np.float64]
Unit = Literal["auto", "px", "mm"]

MAX_PTS_BYTES = 1 << 20
PLATEAU_MM = (50.0, 125.0)  # range of the width of a tibial plateau, magnified or not
_PTS_FORMAT = re.compile(r"\s*version:\s*1\s+n_points:\s*(\d+)\s*\{(.*)\}\s*", re.DOTALL)


def read_pts(path: Path, *, unit: Unit = "px", pixel_spacing_mm: tuple[float, float] | None = None) -> Points:
    """Return the landmarks of a `.pts` file in pixels, (1, 74, 2) or (2, 74, 2) float64, as they are in the file.

    Args:
        path: the file; the final newline may be missing.
        unit: of the numbers in the file; "auto" derives it from the width of the tibial plateau.
        pixel_spacing_mm: (row, column), needed for millimetres.

    Raises:
        UnreadableFileError: not a `.pts` file of version 1; a number of points that is neither 74 nor 148 or differs
            from `n_points`; a number that is not finite; millimetres without a pixel spacing; an ambiguous unit.
    """
    if path.stat().st_size > MAX_PTS_BYTES:
        raise UnreadableFileError(
            f"{path.name} has {path.stat().st_size} bytes; a .pts file has at most {MAX_PTS_BYTES}. Check the file."
        )
    match = _PTS_FORMAT.fullmatch(path.read_text(encoding="ascii", errors="replace"))
    if match is None:
        raise UnreadableFileError(f"{path.name} is not a .pts file of version 1.")
    points = _pts_points(match[2], path.name)
    n_points = int(match[1])
    if len(points) != n_points or n_points not in (NUM_LANDMARKS, 2 * NUM_LANDMARKS):
        raise UnreadableFileError(
            f"{path.name} has n_points {n_points} and {len(points)} points; expected 74 (one knee) or 148 (two knees)."
        )
    knees = points.reshape(-1, NUM_LANDMARKS, 2)
    if unit == "auto":
        unit = _guess_unit(knees, pixel_spacing_mm, path.name)
    if unit == "mm":
        if pixel_spacing_mm is None:
            raise UnreadableFileError(
                f"{path.name} is in millimetres, but the film has no pixel spacing. State the pixel spacing, or the "
                "unit px if the file is in pixels."
            )
        knees = knees / np.array([pixel_spacing_mm[1], pixel_spacing_mm[0]])
    return knees


def _pts_points(text: str, name: str) -> Points:
    """Return the points (N, 2) between the braces of a `.pts` file."""
    try:
        points = np.array([[float(word) for word in line.split()] for line in text.strip().splitlines()])
    except ValueError as error:
        raise UnreadableFileError(f"{name} has a line that is not two numbers.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UnreadableFileError(f"{name} has a line that is not two finite numbers.")
    return points


def _guess_unit(knees: Points, pixel_spacing_mm: tuple[float, float] | None, name: str) -> Literal["px", "mm"]:
    """Return the unit in which the tibial plateaus have a plausible width."""
    width = float(np.linalg.norm(knees[:, TIBIA_PLATEAU_MEDIAL] - knees[:, TIBIA_PLATEAU_LATERAL], axis=-1).mean())
    low, high = PLATEAU_MM
    if not low <= width <= high:
        return "px"
    if pixel_spacing_mm is not None and low <= width * pixel_spacing_mm[1] <= high:
        raise UnreadableFileError(f"The unit of {name} is ambiguous, millimetres or pixels; state the unit.")
    return "mm"


def write_pts(path: Path, landmarks_px: Points) -> None:
    """Write landmarks (74, 2) or (K, 74, 2) in pixels as a `.pts` file."""
    flat = np.asarray(landmarks_px, dtype=np.float64).reshape(-1, 2)
    lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in flat)
    write_text(path, f"version: 1\nn_points: {len(flat)}\n{{\n{lines}\n}}\n")


KNEEL_TIBIA: tuple[int, ...] = tuple(TIBIA_ARTICULAR)[::2]  # T4 is the valley between the tibial spines
KNEEL_FEMUR: tuple[int, ...] = tuple(FEMUR_ARTICULAR)[::2]  # F3 is the intercondylar notch
KNEEL_COLUMNS = ("subject_id", "side", "kl", "tibia", "femur", "bbox", "center")
KNEEL_BOX_WIDTHS = 1.75  # side of `bbox` in plateau widths: KNEEL's 140 mm for a plateau of 80 mm


@dataclass(frozen=True, eq=False)
class KneelKnee:
    """A row of a KNEEL table: `points` (16, 2) float64, T0–T8 then F0–F6, in pixels of the film."""

    subject_id: str
    side: Side
    points: Points


def kneel_points(landmarks_px: Points) -> Points:
    """Return KNEEL's points T0–T8 and F0–F6, (16, 2): every second articular landmark of each bone.

    Example:
        >>> kneel_points(np.arange(148.0).reshape(74, 2))[[0, 4, 8, 9, 12, 15], 0] // 2
        array([47., 55., 63., 12., 18., 24.])
    """
    return landmarks_px[[*KNEEL_TIBIA, *KNEEL_FEMUR]]


def kneel_row(subject_id: str, side: Side, landmarks_px: Points) -> dict[str, str]:
    """Return one knee as a row of a KNEEL table, with an empty `kl`."""
    points = kneel_points(landmarks_px)
    tibia, femur = points[: len(KNEEL_TIBIA)], points[len(KNEEL_TIBIA) :]
    centre, half = tibia[len(KNEEL_TIBIA) // 2], KNEEL_BOX_WIDTHS / 2 * pose_of(landmarks_px).width
    box = np.rint([*(centre - half), *(centre + half)]).astype(int)
    return {
        "subject_id": subject_id, "side": side, "kl": "", "tibia": _kneel_text(tibia), "femur": _kneel_text(femur),
        "bbox": ",".join(map(str, box)), "center": ",".join(map(str, np.rint(centre).astype(int))),
    }  # fmt: skip


def _kneel_text(points: Points) -> str:
    return ",".join(f"{value:.0f}" for value in points.reshape(-1))  # KNEEL reads whole numbers


def write_kneel_csv(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows of `kneel_row` as a KNEEL table; a `subject_id` that a spreadsheet would run gets an apostrophe."""
    with replacing(path) as stream:
        writer = csv.DictWriter(stream, KNEEL_COLUMNS)
        writer.writeheader()
        writer.writerows({name: escape_formula(cell) for name, cell in row.items()} for row in rows)


def read_kneel_csv(path: Path) -> list[KneelKnee]:
    """Return the knees of a KNEEL table, in the order of its rows.

    Raises:
        UnreadableFileError: a column is missing, or a row does not have nine tibial and seven femoral points.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"subject_id", "side", "tibia", "femur"} - set(reader.fieldnames or ())
        if missing:
            raise UnreadableFileError(f"{path.name} lacks the columns {', '.join(sorted(missing))}.")
        return [_kneel_knee(row, f"{path.name}, row {number}") for number, row in enumerate(reader, start=1)]


def _kneel_knee(row: dict[str, str], where: str) -> KneelKnee:
    try:
        parts = [np.array([float(word) for word in row[bone].split(",")]).reshape(-1, 2) for bone in ("tibia", "femur")]
    except (ValueError, AttributeError) as error:  # a short row has None
        raise UnreadableFileError(f"{where}: tibia and femur must be numbers x,y,x,y,….") from error
    numbers = [len(part) for part in parts]
    if numbers != [len(KNEEL_TIBIA), len(KNEEL_FEMUR)] or not all(np.isfinite(part).all() for part in parts):
        raise UnreadableFileError(
            f"{where}: found {numbers[0]} tibial and {numbers[1]} femoral points; expected 9 and 7, all finite."
        )
    side: Side = "R" if row["side"] == "R" else "L" if row["side"] == "L" else "unknown"
    return KneelKnee(row["subject_id"], side, np.concatenate(parts))


KEYPOINT_NAMES: tuple[str, ...] = (*(f"femur_{i}" for i in FEMUR), *(f"tibia_{i - TIBIA.start}" for i in TIBIA))
MAX_COCO_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class CocoKnee:
    """A COCO annotation: side, landmarks (74, 2) float64 in pixels, (74,) bool shown on the film, and score 0 … 1."""

    side: Side
    landmarks_px: Points
    shown: NDArray[np.bool_]
    score: float = 1.0


@dataclass(frozen=True)
class CocoFilm:
    """A COCO image: file name, size (height, width) and knees."""

    file_name: str
    size: tuple[int, int]
    knees: tuple[CocoKnee, ...]


def to_coco(films: Iterable[CocoFilm]) -> dict[str, Any]:
    """Return films as a COCO data set of plain JSON values; ids of images and annotations start at 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for film in films:
        height, width = film.size
        images.append({"id": len(images) + 1, "file_name": film.file_name, "height": height, "width": width})
        for knee in film.knees:
            low, high = knee.landmarks_px.min(0), knee.landmarks_px.max(0)
            box = [round(float(v), 2) for v in (*low, *(high - low))]
            visibility = np.where(knee.shown, 2, 1).tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0,
                "bbox": box, "area": round(box[2] * box[3], 2), "num_keypoints": NUM_LANDMARKS,
                "keypoints": [value for (x, y), v in zip(knee.landmarks_px.tolist(), visibility, strict=True)
                              for value in (round(x, 2), round(y, 2), v)],
                "score": round(knee.score, 4), "side": knee.side,
            })  # fmt: skip
    skeleton = [[i, i + 1] for bone in (FEMUR, TIBIA) for i in range(bone.start + 1, bone.stop)]  # 1-based in COCO
    category = {
        "id": 1, "name": "knee", "supercategory": "joint", "keypoints": list(KEYPOINT_NAMES), "skeleton": skeleton,
    }  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": [category]}


def write_coco(path: Path, films: Iterable[CocoFilm]) -> None:
    """Write films as a COCO keypoints file."""
    write_text(path, json.dumps(to_coco(films)))


def file_state(path: Path) -> tuple[Path, int, int]:
    """Return absolute path, time of the last change in ns and size in bytes: a key to cache the content of a file by.

    A copy can keep the modification time of another file (`rsync --times`); on Linux and macOS the time of the change
    of the status, which no program sets, is later then.
    """
    status = path.stat()
    return path.absolute(), max(status.st_mtime_ns, status.st_ctime_ns), status.st_size


def read_coco(path: Path) -> dict[str, CocoFilm]:
    """Return the films of a COCO keypoints file by file name; the result is cached until the file changes.

    Raises:
        UnreadableFileError: not a COCO keypoints file, or an annotation without 74 labelled points.
    """
    return _read_coco(*file_state(path))


@lru_cache(maxsize=2)
def _read_coco(path: Path, changed_ns: int, size: int) -> dict[str, CocoFilm]:
    if size > MAX_COCO_BYTES:
        raise UnreadableFileError(f"{path.name} has {size} bytes; at most {MAX_COCO_BYTES} are read. Split the file.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        knees: dict[int, list[CocoKnee]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            knees[annotation["image_id"]].append(_coco_knee(annotation))
        names = [str(image["file_name"]) for image in data["images"]]
        films = ((i["file_name"], (i["height"], i["width"]), tuple(knees[i["id"]])) for i in data["images"])
        by_name = {name: CocoFilm(name, height_width, own) for name, height_width, own in films}
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFileError(
            f"{path.name} is not a COCO keypoints file with {NUM_LANDMARKS} labelled points per knee."
        ) from error
    if len(by_name) < len(names):
        raise UnreadableFileError(
            f"{path.name} has several images of one file_name; give each film a name of its own, with its folder."
        )
    return by_name


def _coco_knee(annotation: dict[str, Any]) -> CocoKnee:
    keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(NUM_LANDMARKS, 3)
    if not np.isfinite(keypoints).all() or (keypoints[:, 2] == 0).any():
        raise ValueError("a keypoint is not finite or not labelled")
    side = annotation.get("side", "unknown")
    return CocoKnee(
        side if side in ("R", "L") else "unknown", keypoints[:, :2], keypoints[:, 2] == 2, annotation.get("score", 1.0)
    )
