"""Landmark files of other programs: BoneFinder's `.pts` and KNEEL's CSV (COCO: `coco_keypoints`).

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

Writers raise `UsageError` if the file cannot be written.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.geometry import pose_of
from kneegrade.anatomy.landmark_scheme import (
    FEMUR_ARTICULAR,
    NUM_LANDMARKS,
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
