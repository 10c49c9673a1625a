"""One table row per knee: grades, logits, quality and refusals of a grader on images, stored so that a run can resume.

Shared by the benchmarks of sites. Every image runs through `Grader` as in `kneegrade grade`. Quality control is
recorded, but does not withhold the grades: a row of a knee that `kneegrade grade` would refuse has `refused` and its
grades, unless the knee was refused before the network ran.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kneegrade import Grader
from kneegrade.imaging import Source
from kneegrade.results import GradedKnee, GradedRadiograph, Quality
from kneegrade.schema import TARGET_NAMES, TARGETS
from kneegrade.uncertainty import OODFeatures, QualityControl
from kneegrade.weights import load_weights, shipped_path

CHUNK = 16


@dataclass(frozen=True)
class SiteImage:
    """An image of a site.

    Attributes:
        name: unique in the site.
        source: what the grader reads.
        about: columns that are copied to the rows of its knees, for example `kl` and `group`.
    """

    name: str
    source: Source
    about: dict[str, Any]


class Recorder:
    """A quality control that refuses no knee and records what the wrapped one decided, in the order of the knees."""

    def __init__(self, quality_control: QualityControl) -> None:
        self.quality_control, self.qualities = quality_control, list[Quality]()

    def __call__(self, knees: OODFeatures) -> list[Quality]:
        """The quality of every knee, without reasons."""
        qualities = self.quality_control(knees)
        self.qualities += qualities
        return [replace(quality, reason=None) for quality in qualities]


@contextmanager
def recorded(grader: Grader) -> Iterator[tuple[Recorder, list[NDArray[np.float32]]]]:
    """Yields the recorder that replaces the quality control, and the list of the logits (N, 29) of every batch."""
    original, logits = grader.quality_control, list[NDArray[np.float32]]()
    if original is None:
        raise SystemExit("These weights have no quality control; use weights that `kneegrade quality-control` wrote.")

    def keep(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
        logits.append(torch.cat([output.logits[name].cpu() for name in TARGET_NAMES], 1).float().numpy())

    recorder, hook = Recorder(original), grader.network.register_forward_hook(keep)
    grader.quality_control = recorder  # type: ignore[assignment]
    try:
        yield recorder, logits
    finally:
        grader.quality_control = original
        hook.remove()


def grade_images(grader: Grader, images: Sequence[SiteImage]) -> Iterator[list[dict[str, Any]]]:
    """The rows of each image, one per detected knee; an image without a knee has one row without grades."""
    with recorded(grader) as (recorder, logits):
        report = grader.grade_sources(image.source for image in images)
    qualities, values = iter(recorder.qualities), iter(np.concatenate(logits) if logits else ())
    for image, radiograph in zip(images, report.radiographs, strict=True):
        yield [row | {"image": image.name} | image.about for row in knee_rows(radiograph, qualities, values)]


def knee_rows(
    radiograph: GradedRadiograph, qualities: Iterator[Quality], logits: Iterator[NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """The rows of one film. The iterators hold the quality and the logits of the knees that reached the network."""
    if not radiograph.knees:
        reason = radiograph.reason.code if radiograph.reason else "no_knee"
        return [{"knee": -1, "refused": reason, "abstain": True, "confidence": 0.0}]
    rows = []
    for number, knee in enumerate(radiograph.knees):
        row: dict[str, Any] = {
            "knee": number, "side": knee.side, "confidence": round(knee.landmark_confidence, 4),
            "landmarks_px": np.round(requested(knee.landmarks_px), 2).ravel().tolist(),
        }  # fmt: skip
        if knee.grades is None:
            rows.append(row | {"refused": knee.reason.code if knee.reason else "unknown", "abstain": True})
            continue
        quality = next(qualities)
        results = [knee.grades[name] for name in TARGET_NAMES]
        sets = [np.isin(range(t.classes), r.prediction_set or ()) for t, r in zip(TARGETS, results, strict=True)]
        row |= {
            "refused": quality.reason.code if quality.reason else "",
            "abstain": knee.abstain or quality.reason is not None,
            "quality": round(quality.score, 4),
            "findings": " ".join(f.code for f in quality.findings),
            "grades": [r.grade for r in results],
            "probabilities": np.concatenate([np.round(r.probabilities, 5) for r in results]).tolist(),
            "sets": np.concatenate(sets).astype(int).tolist(),
            "aspect": round(aspect_of(knee), 4),
            "logits": np.round(next(logits).astype(np.float64), 4).tolist(),
        }
        rows.append(row)
    return rows


def aspect_of(knee: GradedKnee) -> float:
    """Horizontal scale over vertical scale of the image, as the crop was taken; 1 for square pixels."""
    if knee.evidence is None:
        return 1.0
    crop = np.concatenate([knee.evidence.landmarks_roi_px, np.ones((len(knee.evidence.landmarks_roi_px), 1))], axis=1)
    matrix = np.linalg.lstsq(crop, requested(knee.landmarks_px), rcond=None)[0][:2].T
    return float(np.linalg.norm(matrix[0]) / np.linalg.norm(matrix[1]))


def requested(landmarks: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.zeros((0, 2)) if landmarks is None else landmarks


def site_knees(
    grader: Grader, images: Sequence[SiteImage], cache: Path, show: Callable[[str], None] = print
) -> pd.DataFrame:
    """The rows of all images of a site. Images that `cache` holds are not graded again.

    Args:
        grader: of the images that are not stored.
        images: of the site.
        cache: JSON lines, one per image; rows of finished images are appended.
        show: called with a line of progress per chunk.
    """
    done = read_lines(cache)
    left = [image for image in images if image.name not in done]
    if left:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text("".join(f"{json.dumps(rows)}\n" for rows in done.values()))  # without a line cut off
        for start in range(0, len(left), CHUNK):
            chunk = left[start : start + CHUNK]
            finished = list(grade_images(grader, chunk))
            with cache.open("a") as stream:
                stream.writelines(f"{json.dumps(rows)}\n" for rows in finished)
            done |= {rows[0]["image"]: rows for rows in finished}
            show(f"{cache.stem}: {start + len(chunk)} of {len(left)} images")
    return pd.DataFrame([row for image in images for row in done[image.name]])


def read_lines(cache: Path) -> dict[str, list[dict[str, Any]]]:
    """Image → its rows, of the complete lines of a cache; empty if there is no file."""
    lines = cache.read_text().split("\n")[:-1] if cache.is_file() else []
    stored = (json.loads(line) for line in lines)
    return {rows[0]["image"]: rows for rows in stored}


def folder_of(weights: Path | None, detector: Path | None, root: Path) -> Path:
    """The folder below `root` for results of these weights: their name and the first digits of both checksums."""
    loaded = load_weights(weights or shipped_path("grader"), "grader")
    found = load_weights(detector or shipped_path("detector"), "detector")
    return root / f"{loaded.name}-{loaded.sha256[:8]}-{found.sha256[:8]}"
