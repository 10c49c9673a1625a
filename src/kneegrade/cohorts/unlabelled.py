"""Films without labels or landmarks: their knees are looked for, for adaptation and for comparing sites."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from kneegrade.anatomy import LandmarkDetector, refusal
from kneegrade.anatomy.roi import pose_of
from kneegrade.errors import CohortError, KneeGradeError
from kneegrade.imaging import Source, film_quality, find_sources, read_radiograph, stem_of


def found_manifest(
    films: Path, detector: LandmarkDetector, progress: Callable[[int, int], None] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The manifest of every knee on a folder's films that can be graded, without grades; a line per film without one.

    Each film counts as a person of its own, split "train", source "unlabelled"; a knee whose side cannot be told is
    called by its anatomy.

    Args:
        films: a film or a folder of films; what lies in archives is left out.
        detector: finds the knees.
        progress: called with (done, all).

    Raises:
        CohortError: not one knee.
        UsageError: nothing at `films`.
    """
    sources, rows, bad = list(find_sources([films])), [], []
    for number, source in enumerate(sources, start=1):
        try:
            found = _knees(source, detector)
            rows += found
            bad += [] if found else [f"{source.name}: no knee that can be graded"]
        except KneeGradeError as error:
            bad.append(f"{source.name}: {error.message}")
        if progress:
            progress(number, len(sources))
    if not rows:
        raise CohortError(f"{films} holds no film with a knee that can be graded.")
    return pd.DataFrame(rows).assign(split="train", source="unlabelled"), bad


def _knees(source: Source, detector: LandmarkDetector) -> list[dict[str, Any]]:
    if source.path is None:
        raise CohortError("a film in an archive; unpack it first")
    radiograph = read_radiograph(source.open())
    poor = film_quality(radiograph)
    if poor:
        raise CohortError(poor[0].message)
    knees, _ = detector.find(radiograph)
    sides = [knee.side if knee.side != "unknown" else "RL"[pose_of(knee.landmarks_px).mirrored] for knee in knees]
    stem = stem_of(source.name)
    return [
        {"image_path": str(source.path.resolve()), "knee_id": f"{stem}-{number}-{side}", "subject_id": stem,
         "side": side, "landmarks_px": knee.landmarks_px.reshape(-1).tolist(),
         "landmark_confidence": knee.landmark_confidence}
        for number, (knee, side) in enumerate(zip(knees, sides, strict=True), start=1)
        if refusal(knee) is None
    ]  # fmt: skip
