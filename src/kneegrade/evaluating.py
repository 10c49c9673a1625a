"""Weights and labelled knees → predictions: what `kneegrade evaluate` scores.

With the manifest's landmarks the network alone is measured; without, the whole corridor from the file on.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kneegrade.cohorts import target_distributions
from kneegrade.errors import RecipeError
from kneegrade.evaluation import Predictions
from kneegrade.grader import Grader, choose_device
from kneegrade.imaging import Source
from kneegrade.learning.cutting import build_store
from kneegrade.learning.predicting import graders_predictions
from kneegrade.learning.store import load_stores
from kneegrade.results import GradedRadiograph, GradeResult
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.weights import shipped_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a grader said of the knees of a split.

    Attributes:
        predictions: for those that could be graded; `knee` is the row in the manifest's split.
        missed: a line for each of the others.
        landmarks: where landmarks came from, the "manifest" or the "detector".
    """

    predictions: Predictions
    missed: tuple[str, ...]
    landmarks: Literal["manifest", "detector"]


def evaluate_manifest(
    table: pd.DataFrame, split: str, weights: Path | None = None, *, detect: bool = False, device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:  # fmt: skip
    """Calibrated predictions of a grader for the knees of one split of a manifest.

    Args:
        table: a validated manifest; its `image_path`s can be opened from here.
        split: which knees.
        weights: a grader's; the shipped ones by default.
        detect: find the knees and their landmarks as `kneegrade grade` does, even if the manifest has landmarks. A
            film's knees are told apart by their side; the only knee of a film is taken where its side cannot be told.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Raises:
        RecipeError: no knee in that split, or none of them could be graded.
        WeightsError: missing or damaged weights.
    """
    own = table[table["split"] == split].reset_index(drop=True)
    if own.empty:
        known = ", ".join(sorted(table["split"].unique()))
        raise RecipeError(f"The manifest has no knee in split {split!r}; it has {known}.")
    marked = own["landmarks_px"].notna().to_numpy() if "landmarks_px" in own.columns else np.zeros(len(own), dtype=bool)
    if not detect and marked.any() and not marked.all():
        raise RecipeError(
            f"{int((~marked).sum())} of the {len(own)} knees have no landmarks; --detect finds those of all."
        )
    if np.isnan(target_distributions(own)).all():
        raise RecipeError(f"No knee of split {split!r} has a grade to compare with.")
    result = (_graded if detect or not marked.any() else _cut)(own, weights, device, progress)
    if not len(result.predictions):
        raise RecipeError(f"None of the {len(own)} knees could be graded; the first: {result.missed[0]}")
    return result


def _cut(table: pd.DataFrame, weights: Path | None, device: str, progress: Progress | None) -> Evaluation:
    with tempfile.TemporaryDirectory() as folder:
        bad = build_store(table, Path(folder) / "store", progress=progress)
        store = load_stores((Path(folder) / "store",))
        with np.load(Path(folder) / "store" / "knees.npz") as knees:
            rows = knees["manifest_rows"]
        path = weights or shipped_path("grader")
        predictions = graders_predictions(path, store, np.arange(len(store)), choose_device(device))
    return Evaluation(replace(predictions, knee=rows), tuple(bad), "manifest")


def _graded(table: pd.DataFrame, weights: Path | None, device: str, progress: Progress | None) -> Evaluation:
    films = table["image_path"].unique()
    sources = [Source(Path(path).name, Path(path)) for path in films]
    report = Grader(device, weights).grade_sources(sources, progress=progress)
    radiographs = dict(zip(films, report.radiographs, strict=True))
    listed = table["image_path"].value_counts()
    rows, shares, given, held, missed = [], [], [], [], []
    for row, (path, side) in enumerate(zip(table["image_path"], table["side"], strict=True)):
        grades = _grades_of(radiographs[path], side, alone=listed[path] == 1)
        if grades is None:
            reason = radiographs[path].reason
            missed.append(f"{path}: {reason.message if reason else f'no gradable {side} knee found'}")
        else:
            rows.append(row)
            shares.append(np.concatenate([grades[t.name].probabilities for t in TARGETS]))
            given.append([grades[t.name].grade for t in TARGETS])
            held.append(
                np.concatenate([np.isin(range(t.classes), grades[t.name].prediction_set or ()) for t in TARGETS])
            )
    kept = table.iloc[rows]
    return Evaluation(
        Predictions(
            probabilities=np.array(shares, dtype=np.float32).reshape(-1, ONE_HOT_LENGTH),
            targets=target_distributions(kept.reset_index(drop=True)),
            subject=kept["subject_id"].to_numpy(dtype=str),
            knee=np.array(rows, dtype=np.int64),
            grades=np.array(given, dtype=np.int64).reshape(-1, len(TARGETS)),
            sets=None if report.set_level is None else np.array(held, dtype=np.bool_).reshape(-1, ONE_HOT_LENGTH),
        ),
        tuple(missed),
        "detector",
    )


def _grades_of(radiograph: GradedRadiograph, side: str, alone: bool) -> Mapping[str, GradeResult] | None:
    """Grades of the knee of a side, or of a film's only knee, its side untold, where the manifest too has only one."""
    graded = [knee for knee in radiograph.knees if knee.grades]
    only = [knee for knee in graded if alone and len(radiograph.knees) == 1 and knee.side == "unknown"]
    matching = [knee for knee in graded if knee.side == side] or only
    return matching[0].grades if matching else None
