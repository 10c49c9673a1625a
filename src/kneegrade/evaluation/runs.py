"""Finished runs as the tables see them, grouped by the recipe that they followed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kneegrade.errors import UsageError
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.scores import Scores, SubjectBootstrap, score


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """One run folder that came to its end.

    Attributes:
        directory: of the run.
        recipe: the resolved recipe.
        cohort: what `cohort.json` says of its knees.
        calibration: predictions for the knees that choices are made on.
        test: predictions for the knees that are scored.
    """

    directory: Path
    recipe: dict[str, Any]
    cohort: dict[str, Any]
    calibration: Predictions
    test: Predictions

    @property
    def name(self) -> str:
        """The recipe's, which is the row in the tables."""
        return str(self.recipe["name"])


def load_runs(directories: Iterable[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """Runs in these folders or one level below them, and the folders of runs that have not come to their end.

    Raises:
        UsageError: no finished run, or runs that were scored on different knees.
    """
    folders = [
        folder
        for directory in directories
        for folder in ([directory] if (directory / "recipe.yaml").is_file() else sorted(directory.glob("*/")))
        if (folder / "recipe.yaml").is_file()
    ]
    finished = [folder for folder in folders if (folder / "predictions-test.parquet").is_file()]
    if not finished:
        raise UsageError("No finished run was found; folders that `kneegrade train` wrote are expected.")
    runs = [_load(folder) for folder in finished]
    for run in runs[1:]:
        if not np.array_equal(run.test.knee, runs[0].test.knee):
            raise UsageError(
                f"{run.directory.name} was scored on other knees than {runs[0].directory.name}; make tables of each "
                "cohort apart."
            )
    return runs, [folder for folder in folders if folder not in finished]


def _load(folder: Path) -> FinishedRun:
    return FinishedRun(
        folder,
        yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")),
        json.loads((folder / "cohort.json").read_text(encoding="utf-8")),
        Predictions.load(folder / "predictions-calibration.parquet"),
        Predictions.load(folder / "predictions-test.parquet"),
    )


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the tables: scores averaged over the seeds of a recipe, sample by sample of the same bootstrap."""

    name: str
    runs: list[FinishedRun]
    scores: Scores


def rows_of(runs: list[FinishedRun], bootstrap: SubjectBootstrap) -> dict[str, Row]:
    """Recipe's name → its row."""
    names = sorted({run.name for run in runs})
    grouped = {name: [run for run in runs if run.name == name] for name in names}
    return {
        name: Row(name, own, mean_scores([score(run.test, bootstrap) for run in own])) for name, own in grouped.items()
    }


def mean_scores(scores: list[Scores]) -> Scores:
    """Means of the same scores of several runs."""
    return {
        grade: {metric: np.mean([one[grade][metric] for one in scores], axis=0) for metric in metrics}
        for grade, metrics in scores[0].items()
    }
