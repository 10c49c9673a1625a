"""Manifests of a user's films without a table: films with landmark files, or films alone.

Films with landmark files (`.pts`, as BoneFinder writes them and the OAI has them, or COCO keypoints) give a manifest
without grades, to train the landmark detector on. On films alone the detector finds the knees; that manifest is used
for adaptation and to compare sites.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from kneegrade.anatomy import LandmarkDetector, UserLandmarks, knees_from_landmarks, refusal
from kneegrade.anatomy.geometry import pose_of
from kneegrade.cohorts.manifest import check_manifest
from kneegrade.cohorts.subject_pattern import subject_pattern
from kneegrade.errors import CohortError, KneeGradeError, RecipeError
from kneegrade.imaging import Source, check_film, find_sources, read_radiograph, stem_of
from kneegrade.progress import Progress

CROP_PX = 64  # of crops that are computed and not used; small to save time


def manifest_from_landmarks(
    films: Path, landmarks: UserLandmarks, subject: str = r"(.+)", split: str = "train",
    *, pixel_spacing_mm: tuple[float, float] | None = None, progress: Progress | None = None,
) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """Return the manifest of a folder of films with landmark files, and one message per film that was excluded.

    The manifest has one row per knee with landmarks, no grades, and the source "marked".

    Args:
        films: folder of films; films in archives are excluded.
        landmarks: landmark files of the films.
        subject: regular expression; its first group, searched in the film's file name, is the person.
        split: split of all knees.
        pixel_spacing_mm: (row, column) spacing of films without pixel spacing.
        progress: called with (films done, all films).

    Raises:
        RecipeError: no film has landmarks.
        UsageError: the regular expression is invalid or has no group.
    """
    pattern = subject_pattern(subject)
    sources, rows, excluded = list(find_sources([films])), [], []
    landmarks = landmarks.among(source.name for source in sources)
    for number, source in enumerate(sources, start=1):
        try:
            rows += _knees_with_landmarks(source, landmarks, pattern, pixel_spacing_mm)
        except KneeGradeError as error:
            excluded.append(f"{source.name}: {error.message}")
        if progress:
            progress(number, len(sources))
    if not rows:
        raise RecipeError(f"{films} contains no film with landmarks in {landmarks.path.name}.")
    table = pd.DataFrame(rows).assign(split=split, source="marked")
    check_manifest(table)
    return table, excluded


def _knees_with_landmarks(
    source: Source, landmarks: UserLandmarks, subject: re.Pattern[str], spacing_mm: tuple[float, float] | None
) -> list[dict[str, Any]]:
    """Return a manifest row per knee of a film."""
    if source.path is None:
        raise RecipeError("The film is in an archive. Unpack it first.")
    radiograph = read_radiograph(source.open(), pixel_spacing_mm=spacing_mm)
    knees, _ = knees_from_landmarks(radiograph, landmarks.of(source.name, radiograph), CROP_PX)
    stem = Path(source.name).stem
    person = subject.search(stem)
    if person is None:
        raise RecipeError("The file name does not match the regular expression for the subject.")
    if any(knee.side == "unknown" for knee in knees):
        raise RecipeError("The side of a knee is unknown: the DICOM tag and the landmarks disagree.")
    return [
        {"image_path": str(source.path.resolve()), "knee_id": f"{stem}-{knee.side}", "subject_id": person[1],
         "side": knee.side, "landmarks_px": knee.landmarks_px.reshape(-1).tolist(),
         "pixel_aspect": knee.pixel_aspect}
        for knee in knees
    ]  # fmt: skip


def manifest_from_films(
    films: Path, detector: LandmarkDetector, subject: str = "(.+)", progress: Progress | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the manifest of all gradable knees on a user's films, and one message per film that has none.

    The manifest has no grades, the split "train" and the source "unlabelled". If the side of a knee is unknown, the
    side that its anatomy suggests is used.

    Args:
        films: film or folder of films; films in archives are excluded.
        detector: landmark detector that finds the knees.
        subject: regular expression; its first group, searched in the film's path below `films` without the suffix, is
            the person. By default every film is a person of its own.
        progress: called with (films done, all films).

    Raises:
        CohortError: no knee was found.
        UsageError: `films` does not exist, or the regular expression is invalid or has no group.
    """
    pattern = subject_pattern(subject)
    sources, rows, excluded = list(find_sources([films])), [], []
    for number, source in enumerate(sources, start=1):
        try:
            found = _detected_knees(source, detector, pattern)
            rows += found
            excluded += [] if found else [f"{source.name}: No knee that can be graded was found."]
        except KneeGradeError as error:
            excluded.append(f"{source.name}: {error.message}")
        except Exception as error:  # one unexpected film must not end hours of work
            excluded.append(f"{source.name}: Unexpected {type(error).__name__}: {error}")
        if progress:
            progress(number, len(sources))
    if not rows:
        raise CohortError(f"{films} contains no film with a knee that can be graded.")
    return pd.DataFrame(rows).assign(split="train", source="unlabelled"), excluded


def _detected_knees(source: Source, detector: LandmarkDetector, subject: re.Pattern[str]) -> list[dict[str, Any]]:
    """Return a manifest row per gradable knee that the detector finds on a film."""
    if source.path is None:
        raise CohortError("The film is in an archive. Unpack it first.")
    person = subject.search(stem_of(source.name))
    if person is None or not person.groups():
        raise CohortError("The file name does not match the regular expression for the subject.")
    radiograph = read_radiograph(source.open())
    findings = check_film(radiograph)
    if findings:
        raise CohortError(findings[0].message)
    knees, _ = detector.find(radiograph)
    sides = [knee.side if knee.side != "unknown" else "RL"[pose_of(knee.landmarks_px).mirrored] for knee in knees]
    return [
        {"image_path": str(source.path.resolve()), "knee_id": f"{source.name}-{number}-{side}", "subject_id": person[1],
         "side": side, "landmarks_px": knee.landmarks_px.reshape(-1).tolist(),
         "landmark_confidence": knee.landmark_confidence, "pixel_aspect": knee.pixel_aspect}
        for number, (knee, side) in enumerate(zip(knees, sides, strict=True), start=1)
        if refusal(knee) is None
    ]  # fmt: skip
