"""`Predictions`: predicted grades of knees with their labels, and the Parquet file that a training run writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kneegrade.coherence import most_probable_grades
from kneegrade.errors import RecipeError
from kneegrade.files import replacing
from kneegrade.schema import ONE_HOT_LENGTH


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions and labels of N knees.

    Attributes:
        probabilities: (N, 29) float32, seven distributions in the order of the schema.
        targets: (N, 29) float32 label distributions; NaN where a grade was not read.
        subject: (N,) str.
        knee: (N,) int, the knee's row in its datasets or in its manifest's split. It allows a comparison of two files
            knee by knee.
        grades: (N, 7) int reported grades, where they can differ from the most probable ones (joint decoding), or None.
        sets: (N, 29) bool prediction sets, or None.
    """

    probabilities: NDArray[np.float32]
    targets: NDArray[np.float32]
    subject: NDArray[np.str_]
    knee: NDArray[np.int64]
    grades: NDArray[np.int64] | None = None
    sets: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.knee)

    def truth(self) -> NDArray[np.int64]:
        """(N, 7) labels; the most probable grade of a soft label, -1 where missing."""
        return most_probable_grades(self.targets)

    def guess(self) -> NDArray[np.int64]:
        """(N, 7) reported grades: `grades`, or the most probable grades where this is None."""
        return most_probable_grades(self.probabilities) if self.grades is None else self.grades

    def same_knees(self, other: "Predictions") -> bool:
        """Whether two predictions are of the same knees, in the same order, with the same labels."""
        return (
            np.array_equal(self.knee, other.knee)
            and np.array_equal(self.subject, other.subject)
            and np.array_equal(self.targets, other.targets, equal_nan=True)
        )

    def save(self, path: Path) -> None:
        """Writes a Parquet file with the columns `knee`, `subject`, `probabilities`, `targets` and, if any, the others.

        `probabilities`, `targets`, `grades` and `sets` are columns of lists.
        """
        table = pd.DataFrame(
            {
                "knee": self.knee,
                "subject": self.subject.astype(str),
                "probabilities": list(self.probabilities.astype(np.float32)),
                "targets": list(self.targets.astype(np.float32)),
            }
        )
        for name, column in (("grades", self.grades), ("sets", self.sets)):
            if column is not None:
                table[name] = list(column)
        with replacing(path, "wb") as stream:
            table.to_parquet(stream, index=False)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """The predictions in a file that `save` wrote.

        Raises:
            RecipeError: the file does not exist, or is not a file of predictions.
        """
        try:
            table = pd.read_parquet(path)
            columns = [np.array(table[name].to_list(), dtype=np.float32) for name in ("probabilities", "targets")]
            subject, knee = table["subject"].to_numpy(dtype=str), table["knee"].to_numpy(dtype=np.int64)
        except (OSError, ValueError, KeyError) as error:
            raise RecipeError(
                f"{path} is not a file of predictions ({type(error).__name__}). Give a predictions Parquet file that "
                "`kneegrade train`, `evaluate` or `calibrate` wrote."
            ) from error
        probabilities, targets = (column.reshape(len(table), ONE_HOT_LENGTH) for column in columns)
        grades = np.stack(table["grades"].to_list()).astype(np.int64) if "grades" in table.columns else None
        sets = np.stack(table["sets"].to_list()).astype(np.bool_) if "sets" in table.columns else None
        return cls(probabilities, targets, subject, knee, grades, sets)
