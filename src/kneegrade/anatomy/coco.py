"""COCO keypoints JSON: 74 landmarks per knee, one category `knee`, the side as an extra key of each annotation.

Coordinates are those of this project: x, y in pixels of the film, the first pixel's centre at (0, 0). Visibility is 2
where the film shows the point, 1 where it lies outside and was placed by the shape model.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmarks import FEMUR, NUM_LANDMARKS, TIBIA
from kneegrade.errors import UnreadableFileError
from kneegrade.results import Side

NAMES: tuple[str, ...] = (*(f"femur_{i}" for i in FEMUR), *(f"tibia_{i - TIBIA.start}" for i in TIBIA))
MAX_BYTES = 1 << 28

Points = NDArray[np.float64]


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
    """Path, modification time in ns and size in bytes of a file: what is read of it may be kept while they stay."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


def read_coco(path: Path) -> dict[str, CocoFilm]:
    """Films by file name; kept in memory until the file changes.

    Raises:
        UnreadableFileError: not COCO keypoints, or an annotation that has not 74 points.
    """
    return _read(*state_of(path))


@lru_cache(maxsize=2)
def _read(path: Path, changed_ns: int, size: int) -> dict[str, CocoFilm]:
    if size > MAX_BYTES:
        raise UnreadableFileError(f"{path.name} is too large for a landmark file.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        knees: dict[int, list[CocoKnee]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            knees[annotation["image_id"]].append(_knee(annotation))
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


def _knee(annotation: dict[str, Any]) -> CocoKnee:
    keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(NUM_LANDMARKS, 3)
    if not np.isfinite(keypoints).all() or (keypoints[:, 2] == 0).any():
        raise ValueError("a keypoint is not finite or not labelled")
    side = annotation.get("side", "unknown")
    return CocoKnee(
        side if side in ("R", "L") else "unknown", keypoints[:, :2], keypoints[:, 2] == 2, annotation.get("score", 1.0)
    )
