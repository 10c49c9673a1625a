"""Films without labels or landmarks: their knees are looked for, for adaptation and for comparing sites.

A clinic's or a researcher's own table: a mapping file says which column holds what.

    # mapping.yaml
    columns: {image_path: film, subject_id: patient, side: knee, kl: KL, jsn_medial: JSNm}
    sides: {R: right, L: left}      # what the side's column holds
    missing: [9, "n/a"]             # what stands for "not read"
    visit: 0                        # or a column under `columns`

Only `image_path`, `subject_id` and `side` must be there; paths are taken from the table's folder.

A user's own films with landmarks beside them: `.pts`, as BoneFinder writes and OAI has, or COCO keypoints.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kneegrade.anatomy import LandmarkDetector, UserLandmarks, knees_from_landmarks, refusal
from kneegrade.anatomy.geometry import pose_of
from kneegrade.cohorts.manifest import check_manifest
from kneegrade.cohorts.readings import Counts, Problem, decoded_grades, problems_at, read_table, refuse, unique_readings
from kneegrade.errors import CohortError, KneeGradeError, RecipeError
from kneegrade.imaging import Source, check_film, find_sources, read_radiograph, stem_of
from kneegrade.schema import TARGET_NAMES

OWN = ("image_path", "subject_id", "side", "visit", "split")
NEEDED = ("image_path", "subject_id", "side")
SPLITS = ("train", "val", "test")


class ColumnMap(BaseModel):
    """The mapping file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str]
    sides: dict[Literal["R", "L"], str] = {"R": "R", "L": "L"}
    missing: tuple[int | str, ...] = ()
    visit: int = 0


def load_column_map(path: Path | None) -> ColumnMap:
    """The mapping of a file; without one, columns are expected to have the manifest's own names.

    Raises:
        CohortError: no YAML, an unknown key, or a name that is no column of a manifest.
    """
    if path is None:
        return ColumnMap(columns={name: name for name in (*OWN, *TARGET_NAMES)})
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        mapping = ColumnMap.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CohortError(f"The mapping {path.name} cannot be read: {type(error).__name__}.") from error
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CohortError(f"The mapping {path.name} does not fit: {lines}.") from error
    unknown = set(mapping.columns) - {*OWN, *TARGET_NAMES}
    if unknown:
        known = ", ".join((*OWN, *TARGET_NAMES))
        raise CohortError(f"The mapping {path.name} names {', '.join(sorted(unknown))}; known are {known}.")
    return mapping


def own_table_readings(path: Path, mapping: ColumnMap, counts: Counts | None = None) -> pd.DataFrame:
    """The readings of a table, with `image_path` (absolute; missing where no such file is).

    Raises:
        CohortError: a missing column, or a value that cannot be, by file, row and column.
    """
    counts = Counts() if counts is None else counts
    table = read_table(path)
    texts = {str(value): "" for value in mapping.missing if isinstance(value, str)}
    numbers = tuple(value for value in mapping.missing if isinstance(value, int))
    table = table.replace(texts)
    columns = {name: column.upper() for name, column in mapping.columns.items()}
    needed = [columns.get(name, name.upper()) for name in NEEDED]
    named = needed if mapping.columns == load_column_map(None).columns else [*needed, *columns.values()]
    lacking = [name for name in dict.fromkeys(named) if name not in table.columns]
    if lacking:
        raise CohortError(f"{path.name} lacks the columns {', '.join(lacking)}; --mapping says what yours are called.")
    counts.add("rows read", len(table))
    image, subject, side = (table[name] for name in needed)
    known = {text.casefold(): letter for letter, text in mapping.sides.items()}
    sides = side.str.casefold().map(known)
    wrong = problems_at(side, sides.isna(), path.name, "one of " + ", ".join(mapping.sides.values()))
    empty = problems_at(subject, subject.isin(["", "."]), path.name, "a person")
    visits, wrong_visits = _visits(table, columns.get("visit"), mapping.visit, path.name)
    split = table[columns["split"]] if columns.get("split") in table.columns else None
    wrong_splits = [] if split is None else problems_at(split, ~split.isin(SPLITS), path.name, ", ".join(SPLITS))
    refuse([*wrong, *empty, *wrong_visits, *wrong_splits])
    paths = [path.parent / text for text in image]
    films = [str(file.resolve()) if file.is_file() else None for file in paths]
    readings = decoded_grades(table, columns, path.name, counts, numbers).assign(
        subject_id=subject, side=sides, visit=visits, file=path.name, row=table.index,
        image_path=pd.Series(films, index=table.index, dtype=object),
    )  # fmt: skip
    if split is not None:
        readings["split"] = split
    return unique_readings(readings, ["subject_id", "side", "visit", "image_path"], counts).reset_index(drop=True)


def _visits(table: pd.DataFrame, column: str | None, default: int, file: str) -> tuple[Any, list[Problem]]:
    if column is None or column not in table.columns:
        return default, []
    numbers = pd.to_numeric(table[column], errors="coerce")
    problems = problems_at(table[column], numbers.isna(), file, "a number of months")
    return numbers.fillna(0).astype(int), problems


ROI_PX = 64  # of regions that nobody looks at


def manifest_from_landmarks(
    films: Path, landmarks: UserLandmarks, subject: str = r"(.+)", split: str = "train",
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
    source: Source, landmarks: UserLandmarks, subject: re.Pattern[str], spacing_mm: tuple[float, float] | None
) -> list[dict[str, Any]]:
    if source.path is None:
        raise RecipeError("a film in an archive; unpack it first")
    radiograph = read_radiograph(source.open(), pixel_spacing_mm=spacing_mm)
    knees, _ = knees_from_landmarks(radiograph, landmarks.of(source.name, radiograph), ROI_PX)
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


def manifest_from_films(
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
    poor = check_film(radiograph)
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
