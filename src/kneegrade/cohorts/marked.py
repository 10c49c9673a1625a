"""A user's own films with landmarks beside them: `.pts`, as BoneFinder writes and OAI has, or COCO keypoints."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from kneegrade.anatomy import MarkedPoints, marked_knees
from kneegrade.cohorts.manifest import check_manifest
from kneegrade.errors import KneeGradeError, RecipeError
from kneegrade.imaging import Source, find_sources, read_radiograph

ROI_PX = 64  # of regions that nobody looks at


def marked_manifest(
    films: Path, landmarks: MarkedPoints, subject: str = r"(.+)", split: str = "train",
    *, pixel_spacing_mm: tuple[float, float] | None = None, progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """The manifest of a folder of films, a row per marked knee, without grades; and a line per film left out.

    Args:
        films: the folder; what lies in archives is left out.
        landmarks: where the points of each film are.
        subject: regular expression whose first group, found in a film's name, is the person.
        split: of all of them.
        pixel_spacing_mm: (row, column) of films that do not say.
        progress: called with (done, all).

    Raises:
        RecipeError: not one film with landmarks, or a wrong regular expression.
    """
    try:
        pattern = re.compile(subject)
    except re.error as error:
        raise RecipeError(f"{subject!r} is not a regular expression: {error}.") from error
    sources, rows, bad = list(find_sources([films])), [], []
    for number, source in enumerate(sources, start=1):
        try:
            rows += _rows(source, landmarks, pattern, pixel_spacing_mm)
        except KneeGradeError as error:
            bad.append(f"{source.name}: {error.message}")
        if progress:
            progress(number, len(sources))
    if not rows:
        raise RecipeError(f"{films} holds no film with landmarks in {landmarks.path.name}.")
    table = pd.DataFrame(rows).assign(split=split, source="marked")
    check_manifest(table)
    return table, bad


def _rows(
    source: Source, landmarks: MarkedPoints, subject: re.Pattern[str], spacing_mm: tuple[float, float] | None
) -> list[dict[str, Any]]:
    if source.path is None:
        raise RecipeError("a film in an archive; unpack it first")
    radiograph = read_radiograph(source.open(), pixel_spacing_mm=spacing_mm)
    knees, _ = marked_knees(radiograph, landmarks.of(source.name, radiograph), ROI_PX)
    stem = Path(source.name).stem
    found = subject.search(stem)
    if found is None:
        raise RecipeError("its name does not match the expression for the person")
    if any(knee.side == "unknown" for knee in knees):
        raise RecipeError("the side of a knee is unknown: tag and landmarks disagree")
    return [
        {"image_path": str(source.path.resolve()), "knee_id": f"{stem}-{knee.side}", "subject_id": found[1],
         "side": knee.side, "landmarks_px": knee.landmarks_px.reshape(-1).tolist()}
        for knee in knees
    ]  # fmt: skip
