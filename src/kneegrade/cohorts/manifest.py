"""The manifest: one table of labelled knees, whatever cohort they come from.

A Parquet file with a row per knee and picture: `image_path`, `knee_id`, `subject_id`, `side` (R|L), `split`,
`source`; the seven grades (nullable integers: a grade never read is missing, not zero); optionally
`<grade>_probabilities` (a list of a probability per class, a soft label that takes the place of the grade in training;
None, NaN or a list of NaN where there is none, then the grade counts) and `landmarks_px` (148 numbers, 74 × (x, y) in
pixels of the stored picture, first pixel's centre (0, 0), never mirrored, NaN allowed).

Human labels to be audited: a manifest, or any table that holds at least one grade.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.cohorts.readings import Counts, Problem, decoded_grades, problems_at, read_table, refuse
from kneegrade.errors import CohortError, RecipeError
from kneegrade.schema import ONE_HOT_LENGTH, TARGET_NAMES, TARGETS

SUM_TOLERANCE = 1e-3  # by which the probabilities of a soft label may miss a sum of 1
REQUIRED = ("image_path", "knee_id", "subject_id", "side", "split", "source")


def load_manifest(path: Path) -> pd.DataFrame:
    """The validated table of `path`; relative image paths are taken from the manifest's folder.

    Raises:
        RecipeError: a missing column, a grade off its scale, a soft label that is no distribution, a side other than R
            or L, or a subject in two splits.
    """
    if not path.is_file():
        raise RecipeError(f"There is no manifest at {path}; `kneegrade cohort` makes one.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a Parquet table.") from error
    check_manifest(table)
    table["image_path"] = [str(path.parent / image) for image in table["image_path"]]
    return table


def check_manifest(table: pd.DataFrame) -> None:
    """Raise a RecipeError that names column and row where the table breaks the manifest's rules."""
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise RecipeError(f"The manifest lacks the columns {', '.join(missing)}.")
    if table[["image_path", "subject_id", "split"]].isna().any(axis=None):
        raise RecipeError("The manifest has a row without image_path, subject_id or split.")
    wrong_side = ~table["side"].isin(["R", "L"])
    if wrong_side.any():
        raise RecipeError(f"Column side, row {int(wrong_side.to_numpy().argmax())}: expected R or L.")
    check_grades(table)
    target_distributions(table)  # reads every soft label
    splits = table.groupby("subject_id")["split"].nunique()
    if (splits > 1).any():
        raise RecipeError(f"{int((splits > 1).sum())} subjects are in more than one split; splits go by subject.")


def check_grades(table: pd.DataFrame) -> None:
    """Raise a RecipeError that names column and row of a grade off its scale."""
    for target in (t for t in TARGETS if t.name in table.columns):
        grades = table[target.name].dropna()
        wrong = ~grades.isin(range(target.classes))
        if wrong.any():
            row, value = grades[wrong].index[0], grades[wrong].iloc[0]
            raise RecipeError(f"Column {target.name}, row {row}: {value} is off the scale 0 to {target.classes - 1}.")


def target_distributions(table: pd.DataFrame) -> NDArray[np.float32]:
    """(N, 29) float32: per knee and grade a distribution over its classes, soft where the table has probabilities,
    one-hot where it has a grade, NaN where the grade was never read.

    Raises:
        RecipeError: a soft label that is no distribution, by column and row.
    """  # noqa: D205
    result = np.full((len(table), ONE_HOT_LENGTH), np.nan, dtype=np.float32)
    for target in TARGETS:
        if target.name in table.columns:
            grades = table[target.name].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
            read = np.isfinite(grades)
            result[read, target.one_hot] = np.eye(target.classes)[grades[read].astype(int)]
        column = f"{target.name}_probabilities"
        if column in table.columns:
            for row, value in enumerate(table[column]):
                try:
                    soft = _soft_label(value, target.classes)
                except ValueError as error:
                    raise RecipeError(
                        f"Column {column}, row {row}: expected {target.classes} probabilities that sum to 1, found "
                        f"{error}."
                    ) from error
                if soft is not None:
                    result[row, target.one_hot] = soft
    return result


def _soft_label(value: object, classes: int) -> NDArray[np.float64] | None:
    """(classes,) float64 that sums to 1, or None where there is no soft label.

    Args:
        value: a cell of a manifest.
        classes: of the grade.

    Raises:
        ValueError: neither; the message says what was found.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        soft = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        soft = np.empty(())
    if soft.ndim != 1:
        raise ValueError("no list of numbers")
    if len(soft) != classes:
        raise ValueError(f"{len(soft)} numbers")
    if np.isnan(soft).all():
        return None
    if not np.isfinite(soft).all():
        raise ValueError("one that is not a finite number")
    if soft.min() < 0:
        raise ValueError(f"a negative one, {soft.min():g}")
    if abs(soft.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(f"a sum of {soft.sum():g}")
    return np.asarray(soft / soft.sum())


def landmark_array(table: pd.DataFrame) -> NDArray[np.float64]:
    """(N, 74, 2) float64 landmarks of a table that has them.

    Raises:
        RecipeError: the column is absent or a row is empty.
    """
    if "landmarks_px" not in table.columns or table["landmarks_px"].isna().any():
        raise RecipeError("The manifest has knees without landmarks_px; run the landmark detector on them first.")
    return np.stack([np.asarray(p, dtype=np.float64).reshape(NUM_LANDMARKS, 2) for p in table["landmarks_px"]])


CARRIED = (
    "knee_id", "subject_id", "side", "visit", "split", "image_path", "joint_space_medial_mm", "joint_space_lateral_mm",
    "landmarks_px", "landmark_confidence",
)  # fmt: skip
NUMBERS = ("visit", "joint_space_medial_mm", "joint_space_lateral_mm")


def load_labels(path: Path) -> pd.DataFrame:
    """The grades of a file (Int64, missing where never read), where it has them the columns in `CARRIED`, and `line`.

    Relative image paths are taken from the file's folder.

    Args:
        path: a manifest (`.parquet`), or a table of text or `.sas7bdat` whose columns have the manifest's names.

    Raises:
        CohortError: no such file, no grade in it, or a value that cannot be, by row and column.
    """
    if path.suffix.lower() == ".parquet":
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise CohortError(f"{path} is not a Parquet table.") from error
    else:
        text = read_table(path)
        columns = {name: name.upper() for name in TARGET_NAMES}
        grades = decoded_grades(text, columns, path.name, Counts())
        carried = {name: text[name.upper()] for name in CARRIED if name.upper() in text.columns}
        refuse([problem for name in NUMBERS for problem in _no_numbers(carried.get(name), path.name)])
        table = grades.assign(**carried, line=text.index).reset_index(drop=True)
        for name in NUMBERS:
            if name in table.columns:
                table[name] = pd.to_numeric(table[name].replace({"": None, ".": None}))
    check_grades(table)
    if "image_path" in table.columns:
        table["image_path"] = [str(path.parent / image) for image in table["image_path"].astype(str)]
    present = [name for name in TARGET_NAMES if name in table.columns]
    if not present or table[present].isna().all(axis=None):
        raise CohortError(f"{path.name} holds no grade; columns such as {', '.join(TARGET_NAMES[:3])} are expected.")
    missing = {name: pd.array([pd.NA] * len(table), dtype="Int64") for name in TARGET_NAMES if name not in present}
    table = table.assign(**missing)
    grades_read = table[list(TARGET_NAMES)].astype("Int64")
    return (
        table[[name for name in (*CARRIED, "line") if name in table.columns]].join(grades_read).reset_index(drop=True)
    )


def _no_numbers(cells: "pd.Series[str] | None", file: str) -> list[Problem]:
    """Cells that are neither a number nor empty."""
    if cells is None:
        return []
    wrong = pd.to_numeric(cells, errors="coerce").isna() & ~cells.isin(["", "."])
    return problems_at(cells, wrong, file, "a number")
