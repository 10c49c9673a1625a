"""A clinic's or a researcher's own table: a mapping file says which column holds what.

    # mapping.yaml
    columns: {image_path: film, subject_id: patient, side: knee, kl: KL, jsn_medial: JSNm}
    sides: {R: right, L: left}      # what the side's column holds
    missing: [9, "n/a"]             # what stands for "not read"
    visit: 0                        # or a column under `columns`

Only `image_path`, `subject_id` and `side` must be there; paths are taken from the table's folder.
"""

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kneegrade.cohorts.coded import Problem, problems_at, read_table, refuse
from kneegrade.cohorts.readings import Counts, decoded_grades, unique_readings
from kneegrade.errors import CohortError
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


def load_map(path: Path | None) -> ColumnMap:
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


def mapped_readings(path: Path, mapping: ColumnMap, counts: Counts | None = None) -> pd.DataFrame:
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
    named = needed if mapping.columns == load_map(None).columns else [*needed, *columns.values()]
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
