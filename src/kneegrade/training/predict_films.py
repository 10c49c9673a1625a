"""The pipeline route of `kneegrade.training.predict`: whole films through `Grader`, matched with a manifest's rows.

`grade_films` gives calibrated grades, `ood_features_of_films` the features used for quality control; both return
`KneePredictions`, as the dataset route does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import DetectedRadiograph, UserHints
from kneegrade.cohorts import target_distributions
from kneegrade.errors import UsageError
from kneegrade.evaluation import Predictions
from kneegrade.grader import Grader, detect_film, detect_knees
from kneegrade.imaging import Source, read_radiograph
from kneegrade.progress import Progress
from kneegrade.results import GradedRadiograph, GradeResult
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.uncertainty import OODFeatures, concatenate_features

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class KneePredictions:
    """Predictions of a grader for N knees. What was not computed is None; `requested` returns it without the None.

    Attributes:
        row: (N,) int64, the knee's row in the manifest or dataset, or the number of its picture.
        subject: (N,) str, identifier of the person.
        source: (N,) str, name of the cohort.
        targets: (N, 29) float32 labels as distributions; NaN where a grade was not read.
        landmarks: whether the landmarks are those of the "manifest" (or dataset) or of the "detector".
        left_out: a line with the reason for each knee or film without a prediction.
        logits: grade name → (N, classes) float32, uncalibrated; empty in the pipeline route.
        probabilities: (N, 29) calibrated; None if only OOD features were requested.
        grades: (N, 7) int64, the reported grades; None if only OOD features were requested.
        sets: (N, 29) bool, prediction sets; None if the weights have no thresholds for them.
        drift_features: (N, F) float32; None if not requested.
        ood_features: features used for quality control; None if not requested.
    """

    row: NDArray[np.int64]
    subject: NDArray[np.str_]
    source: NDArray[np.str_]
    targets: NDArray[np.float32]
    landmarks: Literal["manifest", "detector"]
    left_out: tuple[str, ...]
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    probabilities: NDArray[np.floating] | None = None
    grades: NDArray[np.int64] | None = None
    sets: NDArray[np.bool_] | None = None
    drift_features: NDArray[np.float32] | None = None
    ood_features: OODFeatures | None = None

    def __len__(self) -> int:
        """Number of knees."""
        return len(self.row)

    @property
    def predictions(self) -> Predictions:
        """The calibrated predictions as a file of predictions holds them; `knee` is `row`."""
        probabilities = requested(self.probabilities).astype(np.float32)
        return Predictions(probabilities, self.targets, self.subject, self.row, self.grades, self.sets)


def requested(value: Value | None) -> Value:
    """`value`, which the caller of `predict_knees` has requested.

    Raises:
        ValueError: it was not computed.
    """
    if value is None:
        raise ValueError("this output of predict_knees was not requested")
    return value


def grade_films(table: pd.DataFrame, weights: Path, device: str, progress: Progress | None = None) -> KneePredictions:
    """Grades of the knees of a manifest, as `kneegrade grade` finds and grades them on whole films.

    A knee of a film is matched with a row of the manifest by its side. A single knee of unknown side is matched with
    the film's only row.

    Args:
        table: a validated manifest.
        weights: of a grader.
        device: "auto", "cpu" or "cuda".
        progress: called with (films read, films in all).
    """
    films = table["image_path"].unique()
    sources = [Source(Path(path).name, Path(path)) for path in films]
    report = Grader(device, weights).grade_sources(sources, progress=progress)
    radiographs = dict(zip(films, report.radiographs, strict=True))
    rows_of_film = table["image_path"].value_counts()
    rows, results, left_out = list[int](), list[Mapping[str, GradeResult]](), list[str]()
    for row, (path, side) in enumerate(zip(table["image_path"], table["side"], strict=True)):
        grades = _grades_of_side(radiographs[path], side, only_row=rows_of_film[path] == 1)
        if grades is None:
            reason = radiographs[path].reason
            left_out.append(f"{path}: {reason.message if reason else f'no gradable {side} knee found'}")
        else:
            rows.append(row)
            results.append(grades)
    probabilities = [np.concatenate([own[t.name].probabilities for t in TARGETS]) for own in results]
    return KneePredictions(
        **_about(table, rows),
        landmarks="detector",
        left_out=tuple(left_out),
        probabilities=np.array(probabilities, dtype=np.float32).reshape(-1, ONE_HOT_LENGTH),
        grades=np.array([[own[t.name].grade for t in TARGETS] for own in results], dtype=np.int64).reshape(
            -1, len(TARGETS)
        ),
        sets=None if report.set_level is None else _sets(results),
    )


def _about(table: pd.DataFrame, rows: list[int]) -> dict[str, Any]:
    """The fields of `KneePredictions` that repeat rows of a manifest."""
    kept = table.iloc[rows].reset_index(drop=True)
    return {
        "row": np.array(rows, dtype=np.int64),
        "subject": kept["subject_id"].to_numpy(dtype=str),
        "source": kept["source"].to_numpy(dtype=str),
        "targets": target_distributions(kept),
    }


def _grades_of_side(radiograph: GradedRadiograph, side: str, only_row: bool) -> Mapping[str, GradeResult] | None:
    """Grades of the knee of a side.

    If the manifest has one row for the film, and the side in it or that of the film's only knee is unknown, the grades
    of this knee.
    """
    graded = [knee for knee in radiograph.knees if knee.grades]
    alone = only_row and len(radiograph.knees) == 1
    single = [knee for knee in graded if alone and "unknown" in (knee.side, side)]
    matching = [knee for knee in graded if knee.side == side] or single
    return matching[0].grades if matching else None


def _sets(results: list[Mapping[str, GradeResult]]) -> NDArray[np.bool_]:
    """(N, 29) prediction sets."""
    sets = [
        np.concatenate([np.isin(range(t.classes), own[t.name].prediction_set or ()) for t in TARGETS])
        for own in results
    ]
    return np.array(sets, dtype=np.bool_).reshape(-1, ONE_HOT_LENGTH)


def ood_features_of_films(
    films: pd.DataFrame | NDArray[np.uint8], weights: Path, device: str, progress: Progress | None = None
) -> KneePredictions:
    """OOD features of all gradable knees of some films, before quality control.

    Knees are not matched with sides: a film in the table counts with all its knees, once for every row.

    Args:
        films: a manifest, or (N, H, W) pictures of single knees.
        weights: of a grader.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Raises:
        UsageError: no gradable knee on any film.
    """
    grader = Grader(device, weights, quality_control=False)
    images = films["image_path"] if isinstance(films, pd.DataFrame) else films
    rows, left_out = list[int](), list[str]()

    parts = list[OODFeatures]()
    for row, image in enumerate(images):
        film = _detect(image, grader)
        features = grader.ood_features(film)
        if features is None:
            reason = film.reason or next(iter(film.refusals), None)
            left_out.append(f"{film.source}: {reason.message if reason else 'no gradable knee found'}")
        else:
            parts.append(features)
            rows.extend([row] * sum(reason is None for reason in film.refusals))
        if progress:
            progress(row + 1, len(images))
    if not parts:
        raise UsageError("No gradable knee was detected on any of the films.")
    if isinstance(films, pd.DataFrame):
        about = _about(films, rows)
    else:
        about = {
            "row": np.array(rows, dtype=np.int64), "subject": np.array(rows).astype(str),
            "source": np.full(len(rows), "pictures"),
            "targets": np.full((len(rows), ONE_HOT_LENGTH), np.nan, dtype=np.float32),
        }  # fmt: skip
    return KneePredictions(
        **about, landmarks="detector", left_out=tuple(left_out), ood_features=concatenate_features(parts)
    )


def _detect(image: "str | NDArray[np.uint8]", grader: Grader) -> DetectedRadiograph:
    """The knees of a film at a path, or of a picture."""
    if isinstance(image, str):
        return detect_film(Source(Path(image).name, path=Path(image)), grader.detector, UserHints())
    return detect_knees("picture", read_radiograph(np.asarray(image)), grader.detector)
