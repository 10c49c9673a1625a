"""COCO keypoints JSON: 74 landmarks per knee, one category `knee`, the side as an extra key of each annotation.

Coordinates are those of this project: x, y in pixels of the film, the first pixel's centre at (0, 0). Visibility is 2
where the film shows the point, 1 where it lies outside and was placed by the shape model.

BoneFinder's `.pts` text: landmarks of one knee (74 points) or of both knees of a film (148).

version: 1
n_points: 74
{
12.5 34.0
…
}

KNEEL's 16 points and its CSV: nine on the tibia (T0–T8), seven on the femur (F0–F6), index 0 lateral.

Tiulpin et al., "KNEEL: knee anatomical landmark localization using hourglass networks", ICCV workshops 2019. A row per
knee: `subject_id, side, kl, tibia, femur, bbox, center`, points as a text "x,y,…". Ours are whole pixels of the film,
left knees not mirrored; KNEEL's own table holds them relative to `bbox`, left knees mirrored.
"""

import csv
import json
import os
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
from kneegrade.results import Side

Unit = Literal["auto", "px", "mm"]

MAX_BYTES = 1 << 20
PLATEAU_MM = (50.0, 125.0)  # widths of a tibial plateau, magnified or not
_HEADER = re.compile(r"\s*version:\s*1\s+n_points:\s*(\d+)\s*\{(.*)\}\s*", re.DOTALL)

Points = NDArray[np.float64]


def read_pts(path: Path, *, unit: Unit = "px", pixel_spacing_mm: tuple[float, float] | None = None) -> Points:
    """Landmarks (1, 74, 2) or (2, 74, 2) float64, (x, y) in pixels, in the order of the file, none mirrored.

    Args:
        path: the file; the final newline may be missing.
        unit: of the numbers in the file; "auto" decides from the width of the tibial plateau.
        pixel_spacing_mm: (row, column), needed for millimetres.

    Raises:
        UnreadableFileError: not a `.pts` file of version 1, a count other than 74 or 148 or other than announced, a
            number that is not finite, millimetres without a spacing, or a unit that cannot be told.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableFileError(f"{path.name} is too large for a landmark file.")
    match = _HEADER.fullmatch(path.read_text(encoding="ascii", errors="replace"))
    if match is None:
        raise UnreadableFileError(f"{path.name} is not a .pts file of version 1.")
    points = _numbers(match[2], path.name)
    announced = int(match[1])
    if len(points) != announced or announced not in (NUM_LANDMARKS, 2 * NUM_LANDMARKS):
        raise UnreadableFileError(
            f"{path.name} announces {announced} points and holds {len(points)}; expected 74 or 148."
        )
    knees = points.reshape(-1, NUM_LANDMARKS, 2)
    if unit == "auto":
        unit = _unit_of(knees, pixel_spacing_mm, path.name)
    if unit == "mm":
        if pixel_spacing_mm is None:
            raise UnreadableFileError(
                f"{path.name} is in millimetres, but the film has no pixel spacing: say it, or that the unit is px."
            )
        knees = knees / np.array([pixel_spacing_mm[1], pixel_spacing_mm[0]])
    return knees


def _unit_of(knees: Points, pixel_spacing_mm: tuple[float, float] | None, name: str) -> Literal["px", "mm"]:
    """The unit in which the tibial plateaus have the width of a person's."""
    width = float(np.linalg.norm(knees[:, TIBIA_PLATEAU_MEDIAL] - knees[:, TIBIA_PLATEAU_LATERAL], axis=-1).mean())
    low, high = PLATEAU_MM
    if not low <= width <= high:
        return "px"
    if pixel_spacing_mm is not None and low <= width * pixel_spacing_mm[1] <= high:
        raise UnreadableFileError(f"{name} could be in millimetres or in pixels; say which.")
    return "mm"


def _numbers(text: str, name: str) -> Points:
    try:
        points = np.array([[float(word) for word in line.split()] for line in text.strip().splitlines()])
    except ValueError as error:
        raise UnreadableFileError(f"{name} holds a line that is not two numbers.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UnreadableFileError(f"{name} holds a line that is not two finite numbers.")
    return points


def write_pts(path: Path, landmarks_px: Points) -> None:
    """Write landmarks (74, 2) or (K, 74, 2) in pixels; to a temporary file, then renamed."""
    flat = np.asarray(landmarks_px, dtype=np.float64).reshape(-1, 2)
    lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in flat)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(f"version: 1\nn_points: {len(flat)}\n{{\n{lines}\n}}\n", encoding="ascii")
    os.replace(partial, path)


TIBIA_AT: tuple[int, ...] = tuple(TIBIA_ARTICULAR)[::2]  # T4 is the valley between the spines
FEMUR_AT: tuple[int, ...] = tuple(FEMUR_ARTICULAR)[::2]  # F3 is the intercondylar notch
COLUMNS = ("subject_id", "side", "kl", "tibia", "femur", "bbox", "center")
BBOX_WIDTHS = 1.75  # plateau widths: KNEEL's 140 mm about a plateau of 80


@dataclass(frozen=True, eq=False)
class KneelKnee:
    """A row of the table: `points` (16, 2) float64, T0–T8 then F0–F6, in pixels of the film."""

    subject_id: str
    side: Side
    points: Points


def kneel_points(landmarks_px: Points) -> Points:
    """(16, 2) T0–T8 and F0–F6 of 74 landmarks: every second articular one.

    Example:
        >>> kneel_points(np.arange(148.0).reshape(74, 2))[[0, 4, 8, 9, 12, 15], 0] // 2
        array([47., 55., 63., 12., 18., 24.])
    """
    return landmarks_px[[*TIBIA_AT, *FEMUR_AT]]


def kneel_row(subject_id: str, side: Side, landmarks_px: Points) -> dict[str, str]:
    """One knee as a row of the table; `kl` is left empty."""
    points = kneel_points(landmarks_px)
    tibia, femur = points[: len(TIBIA_AT)], points[len(TIBIA_AT) :]
    centre, half = tibia[len(TIBIA_AT) // 2], BBOX_WIDTHS / 2 * pose_of(landmarks_px).width
    box = np.rint([*(centre - half), *(centre + half)]).astype(int)
    return {
        "subject_id": subject_id, "side": side, "kl": "", "tibia": _text(tibia), "femur": _text(femur),
        "bbox": ",".join(map(str, box)), "center": ",".join(map(str, np.rint(centre).astype(int))),
    }  # fmt: skip


def write_kneel_csv(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows of `kneel_row`; to a temporary file, then renamed."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def read_kneel_csv(path: Path) -> list[KneelKnee]:
    """The knees of a table in the order of its rows.

    Raises:
        UnreadableFileError: a column is missing, or a row does not hold nine tibial and seven femoral points.
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
    wrong = [len(part) for part in parts] != [len(TIBIA_AT), len(FEMUR_AT)]
    if wrong or not all(np.isfinite(part).all() for part in parts):
        raise UnreadableFileError(f"{where}: 9 tibial and 7 femoral points are expected.")
    side: Side = "R" if row["side"] == "R" else "L" if row["side"] == "L" else "unknown"
    return KneelKnee(row["subject_id"], side, np.concatenate(parts))


def _text(points: Points) -> str:
    return ",".join(f"{value:.0f}" for value in points.reshape(-1))  # KNEEL reads whole numbers


NAMES: tuple[str, ...] = (*(f"femur_{i}" for i in FEMUR), *(f"tibia_{i - TIBIA.start}" for i in TIBIA))
MAX_COCO_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class CocoKnee:
    """One annotation: side, landmarks (74, 2) float64 in pixels, (74,) whether shown, and a score 0 … 1."""

    side: Side
    landmarks_px: Points
    shown: NDArray[np.bool_]
    score: float = 1.0


@dataclass(frozen=True)
class CocoFilm:
    """One image: its name, size (height, width), and knees."""

    file_name: str
    size: tuple[int, int]
    knees: tuple[CocoKnee, ...]


def to_coco(films: Iterable[CocoFilm]) -> dict[str, Any]:
    """The data set as plain JSON values; image and annotation numbers start at 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for film in films:
        height, width = film.size
        images.append({"id": len(images) + 1, "file_name": film.file_name, "height": height, "width": width})
        for knee in film.knees:
            low, high = knee.landmarks_px.min(0), knee.landmarks_px.max(0)
            box = [round(float(v), 2) for v in (*low, *(high - low))]
            flags = np.where(knee.shown, 2, 1)
            annotations.append({
                "id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "iscrowd": 0,
                "bbox": box, "area": round(box[2] * box[3], 2), "num_keypoints": NUM_LANDMARKS,
                "keypoints": [v for (x, y), f in zip(knee.landmarks_px.tolist(), flags.tolist(), strict=True)
                              for v in (round(x, 2), round(y, 2), f)],
                "score": round(knee.score, 4), "side": knee.side,
            })  # fmt: skip
    chain = [[i, i + 1] for part in (FEMUR, TIBIA) for i in range(part.start + 1, part.stop)]  # 1-based, as COCO has it
    category = {"id": 1, "name": "knee", "supercategory": "joint", "keypoints": list(NAMES), "skeleton": chain}
    return {"images": images, "annotations": annotations, "categories": [category]}


def write_coco(path: Path, films: Iterable[CocoFilm]) -> None:
    """Write `to_coco(films)`; to a temporary file, then renamed."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(to_coco(films)), encoding="utf-8")
    partial.replace(path)


def state_of(path: Path) -> tuple[Path, int, int]:
    """Path, modification time in ns and size in bytes of a file: its cached content is valid while they stay."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


def read_coco(path: Path) -> dict[str, CocoFilm]:
    """Films by file name; kept in memory until the file changes.

    Raises:
        UnreadableFileError: not COCO keypoints, or an annotation that has not 74 points.
    """
    return _read_coco(*state_of(path))


@lru_cache(maxsize=2)
def _read_coco(path: Path, changed_ns: int, size: int) -> dict[str, CocoFilm]:
    if size > MAX_COCO_BYTES:
        raise UnreadableFileError(f"{path.name} is too large for a landmark file.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        knees: dict[int, list[CocoKnee]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            knees[annotation["image_id"]].append(_coco_knee(annotation))
        return {
            image["file_name"]: CocoFilm(
                image["file_name"], (image["height"], image["width"]), tuple(knees[image["id"]])
            )
            for image in data["images"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFileError(
            f"{path.name} is not COCO keypoints with {NUM_LANDMARKS} labelled points a knee."
        ) from error


def _coco_knee(annotation: dict[str, Any]) -> CocoKnee:
    keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(NUM_LANDMARKS, 3)
    if not np.isfinite(keypoints).all() or (keypoints[:, 2] == 0).any():
        raise ValueError("a keypoint is not finite or not labelled")
    side = annotation.get("side", "unknown")
    return CocoKnee(
        side if side in ("R", "L") else "unknown", keypoints[:, :2], keypoints[:, 2] == 2, annotation.get("score", 1.0)
    )
