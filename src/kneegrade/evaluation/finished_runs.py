"""Finished runs as the tables see them, grouped by the recipe that they followed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kneegrade.errors import UsageError
from kneegrade.evaluation.bootstrap import Scores, SubjectBootstrap, score
from kneegrade.evaluation.predictions import Predictions


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

    def without_seed(self) -> dict[str, Any]:
        """The recipe but for the seed."""
        train = {key: value for key, value in self.recipe["train"].items() if key != "seed"}
        return {**self.recipe, "train": train}


def load_runs(directories: Iterable[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Graders' runs in these folders or one level below them, and a sentence for each that cannot be used.

    Raises:
        UsageError: no finished run, or runs that were scored on different knees.
    """
    folders = [
        folder
        for directory in directories
        for folder in ([directory] if (directory / "recipe.yaml").is_file() else sorted(directory.glob("*/")))
        if (folder / "recipe.yaml").is_file()
    ]
    reasons = {folder: _unusable(folder) for folder in folders}
    runs = [_load(folder) for folder, reason in reasons.items() if reason is None]
    if not runs:
        raise UsageError("No finished run was found; folders that `kneegrade train` wrote are expected.")
    for run in runs[1:]:
        if not run.test.same_knees(runs[0].test):
            raise UsageError(
                f"{run.directory.name} was scored on other knees than {runs[0].directory.name}; make tables of each "
                "cohort apart."
            )
    return runs, [f"{folder}: {reason}" for folder, reason in reasons.items() if reason is not None]


def _unusable(folder: Path) -> str | None:
    """Why a run folder takes no part in tables."""
    if not (folder / "weights.safetensors").is_file():
        return "has not come to its end and is left out."
    if not (folder / "predictions-test.parquet").is_file():
        return "has no test knees (or is a detector's) and is left out."
    return None


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
    """One row of the tables.

    Attributes:
        name: of the recipe.
        runs: one per seed.
        by_run: scores of each, on the samples of one bootstrap.
        scores: their means, sample by sample.
    """

    name: str
    runs: list[FinishedRun]
    by_run: list[Scores]
    scores: Scores


def rows_of(runs: list[FinishedRun], bootstrap: SubjectBootstrap) -> dict[str, Row]:
    """Recipe's name → its row.

    Raises:
        UsageError: two runs of a name differ in more than the seed.
    """
    rows = {}
    for name in sorted({run.name for run in runs}):
        own = [run for run in runs if run.name == name]
        for run in own[1:]:
            if run.without_seed() != own[0].without_seed():
                raise UsageError(
                    f"{run.directory.name} and {own[0].directory.name} share a name but differ in more than the seed; "
                    "make tables of them apart."
                )
        scores = [score(run.test, bootstrap) for run in own]
        rows[name] = Row(name, own, scores, mean_scores(scores))
    return rows


def mean_scores(scores: list[Scores]) -> Scores:
    """Means of the same scores of several runs."""
    return {
        grade: {metric: np.mean([one[grade][metric] for one in scores], axis=0) for metric in metrics}
        for grade, metrics in scores[0].items()
    }
