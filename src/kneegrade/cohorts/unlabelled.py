"""Films without labels or landmarks: their knees are looked for, for adaptation and for comparing sites."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from kneegrade.anatomy import LandmarkDetector, refusal
from kneegrade.anatomy.roi import pose_of
from kneegrade.errors import CohortError, KneeGradeError
from kneegrade.imaging import Source, film_quality, find_sources, read_radiograph, stem_of


def found_manifest(
    films: Path, detector: LandmarkDetector, subject: str = "(.+)", progress: Callable[[int, int], None] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The manifest of every knee on a folder's films that can be graded, without grades; a line per film without one.

    Split "train", source "unlabelled"; a knee whose side cannot be told is called by its anatomy.

    Args:
        films: a film or a folder of films; what lies in archives is left out.
        detector: finds the knees.
        subject: regular expression whose first group, found in a film's name below `films` without its ending, is the
            person; by default each film counts as a person of its own.
        progress: called with (done, all).

    Raises:
        CohortError: not one knee, or a wrong regular expression.
        UsageError: nothing at `films`.
    """
    try:
        pattern = re.compile(subject)
    except re.error as error:
        raise CohortError(f"{subject!r} is not a regular expression: {error}.") from error
    sources, rows, bad = list(find_sources([films])), [], []
    for number, source in enumerate(sources, start=1):
        try:
            found = _knees(source, detector, pattern)
            rows += found
            bad += [] if found else [f"{source.name}: no knee that can be graded"]
        except KneeGradeError as error:
            bad.append(f"{source.name}: {error.message}")
        except Exception as error:  # one odd film must not end hours of work
            bad.append(f"{source.name}: unexpected {type(error).__name__}: {error}")
        if progress:
            progress(number, len(sources))
    if not rows:
        raise CohortError(f"{films} holds no film with a knee that can be graded.")
    return pd.DataFrame(rows).assign(split="train", source="unlabelled"), bad


def _knees(source: Source, detector: LandmarkDetector, subject: re.Pattern[str]) -> list[dict[str, Any]]:
    if source.path is None:
        raise CohortError("a film in an archive; unpack it first")
    person = subject.search(stem_of(source.name))
    if person is None or not person.groups():
        raise CohortError("its name does not match the expression for the person")
    radiograph = read_radiograph(source.open())
    poor = film_quality(radiograph)
    if poor:
        raise CohortError(poor[0].message)
    knees, _ = detector.find(radiograph)
    sides = [knee.side if knee.side != "unknown" else "RL"[pose_of(knee.landmarks_px).mirrored] for knee in knees]
    return [
        {"image_path": str(source.path.resolve()), "knee_id": f"{source.name}-{number}-{side}", "subject_id": person[1],
         "side": side, "landmarks_px": knee.landmarks_px.reshape(-1).tolist(),
         "landmark_confidence": knee.landmark_confidence}
        for number, (knee, side) in enumerate(zip(knees, sides, strict=True), start=1)
        if refusal(knee) is None
    ]  # fmt: skip
