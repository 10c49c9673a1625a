"""A user's own table of films with grades.

It is read with a mapping file (YAML) that gives the names of its columns:

    # mapping.yaml
    columns: {image_path: film, subject_id: patient, side: knee, kl: KL, jsn_medial: JSNm}
    sides: {R: right, L: left}      # values of the side column
    missing: [9, "n/a"]             # values that mean "not read"
    visit: 0                        # months; or a column under `columns`

Only `image_path`, `subject_id` and `side` are required. Image paths are resolved against the folder of the table, with
slashes or back-slashes, and in another case where there is no such file. Sides are the values of `sides`, or words such
as `R`, `Right` and `1: Right`; knees without a side are excluded.
"""

import os
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kneegrade.cohorts.readings import (
    Counts,
    Problem,
    decode_grades,
    decode_sides,
    problems_at,
    raise_problems,
    unique_readings,
)
from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError
from kneegrade.imaging.sources import shown_name
from kneegrade.schema import TARGET_NAMES

KNEE_COLUMNS = ("image_path", "subject_id", "side", "visit", "split")
REQUIRED_COLUMNS = ("image_path", "subject_id", "side")
SPLITS = ("train", "val", "test")


class ColumnMap(BaseModel):
    """The mapping file of a table; unknown keys are errors.

    Attributes:
        columns: name in a manifest → name in the table.
        sides: side → value of the side column; case does not matter.
        missing: values that mean "not read".
        visit: months since baseline, used if there is no visit column.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str]
    sides: dict[Literal["R", "L"], str] = {"R": "R", "L": "L"}
    missing: tuple[int | str, ...] = ()
    visit: int = 0


def load_column_map(path: Path | None) -> ColumnMap:
    """Return the mapping of a YAML file; None gives a mapping in which columns have the names of a manifest.

    Raises:
        CohortError: the file is not YAML, or it has an unknown key or an unknown manifest column.
    """
    if path is None:
        return ColumnMap(columns={name: name for name in (*KNEE_COLUMNS, *TARGET_NAMES)})
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        mapping = ColumnMap.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CohortError(f"The mapping {path.name} cannot be read as YAML: {type(error).__name__}.") from error
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CohortError(f"The mapping {path.name} is not valid: {lines}.") from error
    unknown = set(mapping.columns) - {*KNEE_COLUMNS, *TARGET_NAMES}
    if unknown:
        known = ", ".join((*KNEE_COLUMNS, *TARGET_NAMES))
        raise CohortError(
            f"The mapping {path.name} has the unknown columns {', '.join(sorted(unknown))}. Known columns: {known}."
        )
    return mapping


def own_table_readings(path: Path, mapping: ColumnMap, counts: Counts | None = None) -> pd.DataFrame:
    """Return the readings of a table with `image_path` (absolute, missing where the file does not exist).

    Args:
        path: text or `.sas7bdat` table.
        mapping: names of its columns.
        counts: numbers of rows, half grades and missing grades are added.

    Raises:
        CohortError: a column is missing or a value is invalid. The message names file, row and column.
    """
    counts = Counts() if counts is None else counts
    table = read_table(path)
    missing_texts = {str(value): "" for value in mapping.missing if isinstance(value, str)}
    missing_numbers = tuple(value for value in mapping.missing if isinstance(value, int))
    table = table.replace(missing_texts)
    columns = {name: column.upper() for name, column in mapping.columns.items()}
    required = [columns.get(name, name.upper()) for name in REQUIRED_COLUMNS]
    expected = required if mapping.columns == load_column_map(None).columns else [*required, *columns.values()]
    missing = [name for name in dict.fromkeys(expected) if name not in table.columns]
    if missing:
        raise CohortError(f"{path.name} lacks the columns {', '.join(missing)}. Give their names with --mapping.")
    counts.add("rows read", len(table))
    image, subject, side_text = (table[name] for name in required)
    side, no_side, wrong_sides = decode_sides(side_text, path.name, {text: one for one, text in mapping.sides.items()})
    no_subject = problems_at(subject, subject.isin(["", "."]), path.name, "an identifier of the person")
    visits, wrong_visits = _visits(table, columns.get("visit"), mapping.visit, path.name)
    split = table[columns["split"]] if columns.get("split") in table.columns else None
    wrong_splits = [] if split is None else problems_at(split, ~split.isin(SPLITS), path.name, ", ".join(SPLITS))
    raise_problems([*wrong_sides, *no_subject, *wrong_visits, *wrong_splits])
    folders: dict[Path, dict[str, Path]] = {}
    films = [film_at(path.parent, text, folders) for text in image]
    absent = [text for text, film in zip(image, films, strict=True) if film is None]
    if absent:
        counts.add(f"rows whose film is not on disk (the first: {shown_name(absent[0])})", len(absent))
        if len(absent) == len(films):
            raise CohortError(
                f"None of the {len(films)} films of {path.name} is on disk. The first was looked for at "
                f"{path.parent / absent[0]}. Give paths from the folder of the table, or whole paths."
            )
    readings = decode_grades(table, columns, path.name, counts, missing_numbers).assign(
        subject_id=subject, side=side, visit=visits, file=path.name, row=table.index,
        image_path=pd.Series(films, index=table.index, dtype=object),
    )  # fmt: skip
    if split is not None:
        readings["split"] = split
    counts.add("rows without a side, excluded", int(no_side.sum()))
    readings = readings[~no_side]
    return unique_readings(readings, ["subject_id", "side", "visit", "image_path"], counts).reset_index(drop=True)


def film_at(folder: Path, text: str, folders: dict[Path, dict[str, Path]]) -> str | None:
    """Return the absolute path of the film that a cell of a table names, None if there is no such file.

    A back-slash separates folders if there is no file whose name contains it. A name in another case is used if the
    exact name does not exist.

    Args:
        folder: folder of the table.
        text: the cell.
        folders: names in lower case of the folders that were listed so far; filled by this function.
    """
    for name in dict.fromkeys((text, text.replace("\\", "/"))):
        if not name:
            return None
        exact = folder / name
        if exact.is_file():
            return str(exact.resolve())
        current = Path(exact.anchor) if exact.is_absolute() else Path()
        for part in exact.parts[1:] if exact.is_absolute() else exact.parts:
            current = current / part if (current / part).exists() else _in_other_case(current, part, folders)
        if current.is_file():
            return str(current.resolve())
    return None


def _in_other_case(folder: Path, name: str, folders: dict[Path, dict[str, Path]]) -> Path:
    """Return the entry of a folder whose name differs only in case, else the path of the name as it is."""
    if folder not in folders:
        entries = sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK) else []
        folders[folder] = {path.name.casefold(): path for path in entries}
    return folders[folder].get(name.casefold(), folder / name)


def _visits(table: pd.DataFrame, column: str | None, default: int, file: str) -> tuple[Any, list[Problem]]:
    """Return the visits in months, or `default` if there is no such column, and a problem per invalid value."""
    if column is None or column not in table.columns:
        return default, []
    numbers = pd.to_numeric(table[column], errors="coerce")
    problems = problems_at(table[column], numbers.isna(), file, "a number of months")
    return numbers.fillna(0).astype(int), problems
