"""Human labels to be audited: a manifest, or any table that holds at least one grade."""

from pathlib import Path

import pandas as pd

from kneegrade.cohorts.coded import Problem, problems_at, read_table, refuse
from kneegrade.cohorts.manifest import check_grades
from kneegrade.cohorts.readings import Counts, decoded_grades
from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES

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
