"""KNEEL's 16 points and its CSV: nine on the tibia (T0–T8), seven on the femur (F0–F6), index 0 lateral.

Tiulpin et al., "KNEEL: knee anatomical landmark localization using hourglass networks", ICCV workshops 2019. A row per
knee: `subject_id, side, kl, tibia, femur, bbox, center`, points as a text "x,y,…". Ours are whole pixels of the film,
left knees not mirrored; KNEEL's own table holds them relative to `bbox`, left knees mirrored.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmarks import FEMUR_ARTICULAR, TIBIA_ARTICULAR
from kneegrade.anatomy.roi import pose_of
from kneegrade.errors import UnreadableFileError
from kneegrade.results import Side

TIBIA_AT: tuple[int, ...] = tuple(TIBIA_ARTICULAR)[::2]  # T4 is the valley between the spines
FEMUR_AT: tuple[int, ...] = tuple(FEMUR_ARTICULAR)[::2]  # F3 is the intercondylar notch
COLUMNS = ("subject_id", "side", "kl", "tibia", "femur", "bbox", "center")
BBOX_WIDTHS = 1.75  # plateau widths: KNEEL's 140 mm about a plateau of 80

Points = NDArray[np.float64]


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
        return [_knee(row, f"{path.name}, row {number}") for number, row in enumerate(reader, start=1)]


def _knee(row: dict[str, str], where: str) -> KneelKnee:
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
