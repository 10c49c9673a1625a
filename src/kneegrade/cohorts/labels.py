"""Human labels to be audited: a manifest, or any table that holds at least one grade."""

from pathlib import Path

import pandas as pd

from kneegrade.cohorts.coded import read_table
from kneegrade.cohorts.readings import Counts, decoded_grades
from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES

CARRIED = ("knee_id", "subject_id", "side", "visit", "image_path", "joint_space_medial_mm", "joint_space_lateral_mm")


def load_labels(path: Path) -> pd.DataFrame:
    """The grades of a file (Int64, missing where never read) and, where it has them, the columns in `CARRIED`.

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
        table = grades.assign(**carried).reset_index(drop=True)
        for name in ("visit", "joint_space_medial_mm", "joint_space_lateral_mm"):
            if name in table.columns:
                table[name] = pd.to_numeric(table[name], errors="coerce")
    present = [name for name in TARGET_NAMES if name in table.columns]
    if not present or table[present].isna().all(axis=None):
        raise CohortError(f"{path.name} holds no grade; columns such as {', '.join(TARGET_NAMES[:3])} are expected.")
    missing = {name: pd.array([pd.NA] * len(table), dtype="Int64") for name in TARGET_NAMES if name not in present}
    table = table.assign(**missing)
    return table[[*(name for name in CARRIED if name in table.columns), *TARGET_NAMES]].reset_index(drop=True)
