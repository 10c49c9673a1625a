"""The manifest: one table of labelled knees, the same for every cohort.

A manifest is a Parquet file with one row per knee and film:

- `image_path`, `knee_id`, `subject_id`, `side` (R, L or unknown), `split`, `source`: required.
- The seven grades: nullable integers. A grade that was never read is missing, not 0.
- `<grade>_probabilities`: optional soft label, a list with one probability per class. It replaces the grade in
  training. Where it is None, NaN or a list of NaN, the grade is used.
- `landmarks_px`: optional, 148 numbers, 74 × (x, y) in pixels of the stored image. The centre of the first pixel is
  (0, 0). Left knees are not mirrored. NaN is allowed.
- `pixel_aspect`: optional, factor by which the image is stretched horizontally, as estimated together with
  `landmarks_px`; 1 where missing. Crops are taken without the stretch.

`load_labels` also accepts other tables with at least one grade, so that their labels can be audited.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.cohorts.readings import Counts, Problem, decode_grades, problems_at, raise_problems
from kneegrade.cohorts.table_files import read_table
from kneegrade.errors import CohortError, RecipeError
from kneegrade.schema import ONE_HOT_LENGTH, TARGET_NAMES, TARGETS

SUM_TOLERANCE = 1e-3  # largest accepted difference between 1 and the sum of a soft label
REQUIRED_COLUMNS = ("image_path", "knee_id", "subject_id", "side", "split", "source")
LABEL_COLUMNS = (
    "knee_id", "subject_id", "side", "visit", "split", "image_path", "joint_space_medial_mm", "joint_space_lateral_mm",
    "landmarks_px", "landmark_confidence", "pixel_aspect",
)  # fmt: skip
NUMERIC_COLUMNS = ("visit", "joint_space_medial_mm", "joint_space_lateral_mm", "pixel_aspect")


def load_manifest(path: Path) -> pd.DataFrame:
    """Return the validated table of a manifest file.

    Relative image paths are resolved against the folder of the manifest.

    Args:
        path: Parquet file.

    Raises:
        RecipeError: there is no such file, it is not a Parquet table, or `check_manifest` rejects it.
    """
    if not path.is_file():
        raise RecipeError(f"There is no manifest at {path}. Create one with `kneegrade cohort`.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a Parquet table.") from error
    check_manifest(table)
    table["image_path"] = [str(path.parent / image) for image in table["image_path"]]
    return table


def check_manifest(table: pd.DataFrame) -> None:
    """Check the rules of a manifest.

    Raises:
        RecipeError: a required column is missing, a grade is outside its scale, a soft label is not a distribution, a
            side is not R, L or unknown, a film with a knee of unknown side has several rows, a `pixel_aspect` is not a
            positive number, or a subject is in more than one split. The message names column and row.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in table.columns]
    if missing:
        raise RecipeError(f"The manifest lacks the columns {', '.join(missing)}.")
    if table[["image_path", "subject_id", "split"]].isna().any(axis=None):
        raise RecipeError("The manifest has a row without image_path, subject_id or split. All three are required.")
    wrong_side = ~table["side"].isin(["R", "L", "unknown"])
    if wrong_side.any():
        raise RecipeError(f"Column side, row {int(wrong_side.to_numpy().argmax())}: expected R, L or unknown.")
    shared = (table["side"] == "unknown") & table["image_path"].duplicated(keep=False)
    if shared.any():
        raise RecipeError(
            f"Column side, row {int(shared.to_numpy().argmax())}: a film with several rows needs R or L in each."
        )
    if "pixel_aspect" in table.columns:
        aspect = pd.to_numeric(table["pixel_aspect"], errors="coerce")
        wrong = table["pixel_aspect"].notna() & ~(np.isfinite(aspect) & (aspect > 0))
        if wrong.any():
            raise RecipeError(f"Column pixel_aspect, row {int(wrong.to_numpy().argmax())}: expected a positive number.")
    check_grades(table)
    target_distributions(table)  # validates every soft label
    splits = table.groupby("subject_id")["split"].nunique()
    if (splits > 1).any():
        several = int((splits > 1).sum())
        raise RecipeError(
            f"{several} subjects are in more than one split. All knees of a subject must be in one split."
        )


def check_grades(table: pd.DataFrame) -> None:
    """Check that every grade is on its scale.

    Raises:
        RecipeError: a grade is outside its scale. The message names column and row.
    """
    for target in (t for t in TARGETS if t.name in table.columns):
        grades = table[target.name].dropna()
        wrong = ~grades.isin(range(target.classes))
        if wrong.any():
            row, value = grades[wrong].index[0], grades[wrong].iloc[0]
            raise RecipeError(
                f"Column {target.name}, row {row}: {value} is outside the scale 0 to {target.classes - 1}."
            )


def target_distributions(table: pd.DataFrame) -> NDArray[np.float32]:
    """Return (N, 29) float32 class distributions of the seven grades of every knee.

    A grade is its soft label where the table has one, one-hot where it has only the grade, and NaN where the grade was
    never read.

    Raises:
        RecipeError: a soft label is not a distribution. The message names column and row.
    """
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
    """Return a (classes,) float64 distribution that sums to 1, or None if the cell contains no soft label.

    Args:
        value: cell of a manifest.
        classes: number of classes of the grade.

    Raises:
        ValueError: the cell is neither missing nor a distribution. The message says what was found.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        soft = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        soft = np.empty(())
    if soft.ndim != 1:
        raise ValueError("a value that is not a list of numbers")
    if len(soft) != classes:
        raise ValueError(f"{len(soft)} numbers")
    if np.isnan(soft).all():
        return None
    if not np.isfinite(soft).all():
        raise ValueError("a value that is not a finite number")
    if soft.min() < 0:
        raise ValueError(f"the negative value {soft.min():g}")
    if abs(soft.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(f"a sum of {soft.sum():g}")
    return np.asarray(soft / soft.sum())


def rows_of_split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """The knees of one split of a manifest, with a new index.

    Raises:
        RecipeError: the manifest has no knee in the split.
    """
    own = table[table["split"] == split].reset_index(drop=True)
    if own.empty:
        known = ", ".join(sorted(table["split"].unique()))
        raise RecipeError(f"The manifest has no knee in split {split!r}; its splits are {known}.")
    return own


def has_landmarks(table: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) bool, which rows of a manifest have landmarks."""
    if "landmarks_px" not in table.columns:
        return np.zeros(len(table), dtype=np.bool_)
    return table["landmarks_px"].notna().to_numpy(dtype=np.bool_)


def landmark_array(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return (N, 74, 2) float64 landmarks, (x, y) in pixels, of a manifest in which every knee has them.

    Raises:
        RecipeError: the column `landmarks_px` is absent or empty in a row.
    """
    if "landmarks_px" not in table.columns or not has_landmarks(table).all():
        raise RecipeError("The manifest has knees without landmarks_px. Run the landmark detector on them first.")
    return np.stack([np.asarray(p, dtype=np.float64).reshape(NUM_LANDMARKS, 2) for p in table["landmarks_px"]])


def load_labels(path: Path) -> pd.DataFrame:
    """Return the labels of a file: the seven grades (Int64, missing where never read) and further columns.

    The further columns are those of `LABEL_COLUMNS` that the file has and, for text and SAS files, `line` (line number
    in the file). Relative image paths are resolved against the folder of the file.

    Args:
        path: manifest (`.parquet`), or a text or `.sas7bdat` table whose columns are named as in a manifest.

    Raises:
        CohortError: the file cannot be read, contains no grade, or a text cell is invalid. The message names row and
            column.
        RecipeError: a grade is outside its scale.
    """
    if path.suffix.lower() == ".parquet":
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise CohortError(f"{path} is not a Parquet table.") from error
    else:
        table = _labels_from_text(path)
    check_grades(table)
    if "image_path" in table.columns:
        table["image_path"] = [str(path.parent / image) for image in table["image_path"].astype(str)]
    present = [name for name in TARGET_NAMES if name in table.columns]
    if not present or table[present].isna().all(axis=None):
        raise CohortError(
            f"{path.name} contains no grade. Expected values in at least one of the columns {', '.join(TARGET_NAMES)}."
        )
    missing = {name: pd.array([pd.NA] * len(table), dtype="Int64") for name in TARGET_NAMES if name not in present}
    table = table.assign(**missing)
    grades = table[list(TARGET_NAMES)].astype("Int64")
    further = [name for name in (*LABEL_COLUMNS, "line") if name in table.columns]
    return table[further].join(grades).reset_index(drop=True)


def _labels_from_text(path: Path) -> pd.DataFrame:
    """Return grades, the present `LABEL_COLUMNS` and `line` of a text or SAS table."""
    text = read_table(path)
    grades = decode_grades(text, {name: name.upper() for name in TARGET_NAMES}, path.name, Counts())
    further = {name: text[name.upper()] for name in LABEL_COLUMNS if name.upper() in text.columns}
    raise_problems([problem for name in NUMERIC_COLUMNS for problem in _not_numeric(further.get(name), path.name)])
    table = grades.assign(**further, line=text.index).reset_index(drop=True)
    for name in NUMERIC_COLUMNS:
        if name in table.columns:
            table[name] = pd.to_numeric(table[name].replace({"": None, ".": None}))
    return table


def _not_numeric(cells: "pd.Series[str] | None", file: str) -> list[Problem]:
    """Return a problem for each cell that is neither a number nor empty."""
    if cells is None:
        return []
    wrong = pd.to_numeric(cells, errors="coerce").isna() & ~cells.isin(["", "."])
    return problems_at(cells, wrong, file, "a number")
