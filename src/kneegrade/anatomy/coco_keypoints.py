"""COCO keypoints JSON: 74 keypoints per knee, one category `knee`, the side as an extra key of each annotation.

Points are (x, y) in pixels of the film, with the centre of the first pixel at (0, 0). Visibility is 2 if the film shows
the point, 1 if the point is outside the film and was placed by the shape model.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import FEMUR, NUM_LANDMARKS, TIBIA
from kneegrade.errors import UnreadableFileError
from kneegrade.files import file_state, write_text
from kneegrade.results import Side

KEYPOINT_NAMES: tuple[str, ...] = (*(f"femur_{i}" for i in FEMUR), *(f"tibia_{i - TIBIA.start}" for i in TIBIA))
MAX_COCO_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class CocoKnee:
    """A COCO annotation: side, landmarks (74, 2) float64 in pixels, (74,) bool shown on the film, and score 0 … 1."""

    side: Side
    landmarks_px: NDArray[np.float64]
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
    """Write films as a COCO keypoints file; `UsageError` if it cannot be written."""
    write_text(path, json.dumps(to_coco(films)))


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
