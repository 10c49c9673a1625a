"""Finished training runs, loaded for the result tables and grouped by recipe."""

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
    """One finished run folder.

    Attributes:
        directory: of the run.
        recipe: the resolved recipe.
        cohort: content of `cohort.json`: number of knees and counts of grades.
        calibration: predictions for the calibration knees, on which settings are chosen.
        test: predictions for the test knees, which are scored.
    """

    directory: Path
    recipe: dict[str, Any]
    cohort: dict[str, Any]
    calibration: Predictions
    test: Predictions

    @property
    def name(self) -> str:
        """Name of the recipe, which identifies the row in the tables."""
        return str(self.recipe["name"])

    def recipe_without_seed(self) -> dict[str, Any]:
        """The recipe without its seed."""
        train = {key: value for key, value in self.recipe["train"].items() if key != "seed"}
        return {**self.recipe, "train": train}


@dataclass(frozen=True, eq=False)
class RecipeScores:
    """Runs of one recipe and their scores: one row of the tables.

    Attributes:
        name: of the recipe.
        runs: one per seed.
        by_run: scores of each run, on the samples of one bootstrap.
        scores: their means, sample by sample.
    """

    name: str
    runs: list[FinishedRun]
    by_run: list[Scores]
    scores: Scores


def load_runs(directories: Iterable[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The graders' runs in these folders or one level below them, and a sentence for each folder that is left out.

    Raises:
        UsageError: no finished run, or runs that were scored on different knees.
    """
    folders = [
        folder
        for directory in directories
        for folder in ([directory] if (directory / "recipe.yaml").is_file() else sorted(directory.glob("*/")))
        if (folder / "recipe.yaml").is_file()
    ]
    reasons = {folder: _reason_to_skip(folder) for folder in folders}
    runs = [_load(folder) for folder, reason in reasons.items() if reason is None]
    if not runs:
        raise UsageError("No finished run was found. Give run folders that `kneegrade train` wrote, or their parent.")
    for run in runs[1:]:
        if not run.test.same_knees(runs[0].test):
            raise UsageError(
                f"{run.directory.name} was scored on other knees than {runs[0].directory.name}. Make separate tables "
                "for each cohort."
            )
    return runs, [f"{folder}: {reason}" for folder, reason in reasons.items() if reason is not None]


def _reason_to_skip(folder: Path) -> str | None:
    """Why a run folder is left out of the tables, or None."""
    if not (folder / "weights.safetensors").is_file():
        return "left out, because the run is not finished."
    if not (folder / "predictions-test.parquet").is_file():
        return "left out, because it has no predictions for test knees (or is the run of a detector)."
    return None


def _load(folder: Path) -> FinishedRun:
    return FinishedRun(
        folder,
        yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")),
        json.loads((folder / "cohort.json").read_text(encoding="utf-8")),
        Predictions.load(folder / "predictions-calibration.parquet"),
        Predictions.load(folder / "predictions-test.parquet"),
    )


def scores_by_recipe(runs: list[FinishedRun], bootstrap: SubjectBootstrap) -> dict[str, RecipeScores]:
    """Name of a recipe → scores of its runs.

    Raises:
        UsageError: two runs of one name differ in more than the seed.
    """
    rows = {}
    for name in sorted({run.name for run in runs}):
        of_recipe = [run for run in runs if run.name == name]
        for run in of_recipe[1:]:
            if run.recipe_without_seed() != of_recipe[0].recipe_without_seed():
                raise UsageError(
                    f"{run.directory.name} and {of_recipe[0].directory.name} have the same recipe name but differ in "
                    "more than the seed. Make separate tables for them, or rename one recipe."
                )
        scores = [score(run.test, bootstrap) for run in of_recipe]
        rows[name] = RecipeScores(name, of_recipe, scores, mean_scores(scores))
    return rows


def mean_scores(scores: list[Scores]) -> Scores:
    """Scores averaged over several runs, sample by sample."""
    return {
        grade: {metric: np.mean([one[grade][metric] for one in scores], axis=0) for metric in metrics}
        for grade, metrics in scores[0].items()
    }
