"""Predictions of a network or of a grader's weights for many knees.

- `predict_knees`: a manifest, a folder of films or a dataset, and weights → `KneePredictions`. Evaluation
  (`evaluate_manifest`), drift (`site_profile`), calibration and quality control (`kneegrade.training.fit`) use it.
- `predicted_logits`, `feature_mean`, `predictions_of`, `dataset_predictions`: the same for rows of a loaded dataset.

There are two routes. The dataset route crops knees at the landmarks of the manifest (at those of the detector where the
manifest has none) and runs the network alone. The pipeline route runs `kneegrade.grader.Grader` on whole films, as
`kneegrade grade` does.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.coherence import concatenate_probabilities
from kneegrade.cohorts import has_landmarks, load_manifest, rows_of_split, target_distributions
from kneegrade.cohorts.film_manifests import manifest_from_films
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation import Predictions
from kneegrade.evaluation.two_sample import SiteProfile
from kneegrade.network import Ensemble, GradeLogits, GradingNetwork, ModelConfig, load_network, visible_mean
from kneegrade.progress import Progress
from kneegrade.schema import TARGETS
from kneegrade.training.augmentation import identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import KneeDataset, is_dataset, load_datasets, manifest_rows
from kneegrade.training.predict_films import KneePredictions, grade_films, ood_features_of_films, requested
from kneegrade.uncertainty import Postprocessor
from kneegrade.weights import Weights, load_weights, shipped_path
from kneegrade.weights.inference import choose_device

BATCH_SIZE = 64


@torch.no_grad()
def predicted_batches(
    network: GradingNetwork | Ensemble, crops: CropBatches, rows: NDArray[np.int64], bf16: bool = False
) -> Iterator[tuple[GradeLogits, Tensor]]:
    """Output of `network` and visible landmarks (B, 74) for `rows` in batches of 64, without augmentation."""
    device = crops.device
    network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
        batch = crops.batch(part, identity_params(len(part)))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            yield network(batch.roi, batch.landmarks_px, batch.visible, batch.inside), batch.visible


def predicted_logits(
    network: GradingNetwork | Ensemble, crops: CropBatches, rows: NDArray[np.int64], bf16: bool = False
) -> dict[str, Tensor]:
    """Grade name → (N, classes) float32 logits of `rows`, on the CPU."""
    return _concatenated([output.logits for output, _ in predicted_batches(network, crops, rows, bf16)])


def feature_mean(network: GradingNetwork, crops: CropBatches, rows: NDArray[np.int64], bf16: bool = False) -> Tensor:
    """(P, R) mean over `rows` of the features that the heads read at each read point; hidden landmarks count as 0."""
    features = [output.pooled.float().cpu() for output, _ in predicted_batches(network, crops, rows, bf16)]
    return torch.cat(features).mean(0)


def predictions_of(logits: dict[str, Tensor], dataset: KneeDataset, rows: NDArray[np.int64]) -> Predictions:
    """Uncalibrated predictions for `rows`, with labels and subjects of the dataset."""
    return Predictions(
        probabilities=concatenate_probabilities(logits).numpy(),
        targets=dataset.targets[rows],
        subject=dataset.subject[rows],
        knee=rows,
    )


def dataset_predictions(path: Path, dataset: KneeDataset, rows: NDArray[np.int64], device: str = "cpu") -> Predictions:
    """Calibrated predictions of a grader's weights for `rows`, on the scale of the study's readers.

    On a CPU they have the precision of `kneegrade grade`.

    Raises:
        WeightsError: the weights are missing, damaged or of another kind.
    """
    loaded = load_weights(path, "grader")
    calibrated = Postprocessor.of(loaded)(_run_network(loaded, dataset, rows, device)[0]).on_study_scale
    return Predictions(
        calibrated.probabilities.astype(np.float32), dataset.targets[rows], dataset.subject[rows], rows,
        calibrated.grades, calibrated.sets,
    )  # fmt: skip


def _run_network(
    loaded: Weights, dataset: KneeDataset, rows: NDArray[np.int64], device: str, drift: bool = False
) -> tuple[dict[str, Tensor], NDArray[np.float32] | None]:
    """Logits, and drift features if requested, of the network in a grader's weights.

    For drift features the network is not optimized, so that profiles stay comparable with those written before.
    """
    network = load_network(loaded)
    if not drift:
        network = network.optimized_for_inference(device)
    logits, features = [], []
    for output, visible in predicted_batches(network, CropBatches(dataset, network.config.roi_px, device), rows):
        logits.append(output.logits)
        if drift:
            features.append(drift_features(output.pooled, visible, network.config).float().cpu())
    return _concatenated(logits), torch.cat(features).numpy() if drift else None


def _concatenated(parts: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {t.name: torch.cat([part[t.name].cpu() for part in parts]) for t in TARGETS}


def drift_features(pooled: Tensor, visible: Tensor, config: ModelConfig) -> Tensor:
    """(N, F): mean over the visible landmarks if the network pools at landmarks, then its other read points.

    Args:
        pooled: (N, P, R), features that the heads read at each of P read points.
        visible: (N, 74) bool.
        config: of the network.
    """
    if not config.pooling.startswith("keypoints"):
        return pooled.flatten(1)
    mean = visible_mean(pooled[:, :NUM_LANDMARKS], visible)
    return torch.cat([mean, pooled[:, NUM_LANDMARKS:].flatten(1)], 1)


def predict_knees(
    source: pd.DataFrame | Path | NDArray[np.uint8], weights: Path | None = None, *, pipeline: bool = False,
    features: Literal["drift", "ood"] | None = None, subject: str = "(.+)", device: str = "auto", workers: int = 1,
    progress: Progress | None = None,
) -> KneePredictions:  # fmt: skip
    """Predictions of a grader's weights for the knees of a manifest, a folder of films or a dataset.

    Args:
        source: a validated manifest, or the path of one (`.parquet`); the folder of a dataset; a folder of films; or,
            for "ood", (N, H, W) pictures of single knees.
        weights: of a grader; the shipped ones by default.
        pipeline: take the pipeline route instead of the dataset route.
        features: additional output. "drift": drift features, in the dataset route. "ood": OOD features instead of
            grades, always in the pipeline route and without the quality control of the weights.
        subject: for a folder of films, see `kneegrade.cohorts.film_manifests.manifest_from_films`.
        device: "auto", "cpu" or "cuda".
        workers: processes that crop knees.
        progress: called with (films done, films in all).

    Raises:
        RecipeError: no knee could be cropped.
        UsageError: no gradable knee was found, or nothing is at `source`.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    path, device = weights or shipped_path("grader"), choose_device(device)
    if isinstance(source, np.ndarray):
        if features != "ood":
            raise ValueError('pictures of single knees are a source for features="ood" only')
        return ood_features_of_films(source, path, device, progress)
    if pipeline or features == "ood":
        table, left_out = _manifest_of(source, subject, progress)
        result = (ood_features_of_films if features == "ood" else grade_films)(table, path, device, progress)
        return replace(result, left_out=(*left_out, *result.left_out))
    loaded = load_weights(path, "grader")
    with tempfile.TemporaryDirectory() as folder:
        directory, left_out, has_points = Path(folder) / "dataset", list[str](), True
        if isinstance(source, Path) and is_dataset(source):
            directory = source
        else:
            table, left_out = _manifest_of(source, subject, progress)
            has_points = bool(has_landmarks(table).any())
            left_out += build_dataset(table, directory, workers=workers, progress=progress)
        dataset, rows = load_datasets((directory,)), manifest_rows(directory)
        logits, drift = _run_network(loaded, dataset, np.arange(len(dataset)), device, features == "drift")
    calibrated = Postprocessor.of(loaded)(logits)
    return KneePredictions(
        rows, dataset.subject, dataset.source, dataset.targets, "manifest" if has_points else "detector",
        tuple(left_out), logits, calibrated.probabilities, calibrated.grades, calibrated.sets, drift_features=drift,
    )  # fmt: skip


def _manifest_of(
    source: pd.DataFrame | Path, subject: str, progress: Progress | None
) -> tuple[pd.DataFrame, list[str]]:
    """The manifest `source`, or one of the knees detected on a folder of films, and a line per film left out."""
    if isinstance(source, pd.DataFrame):
        return source, []
    if source.suffix == ".parquet":
        return load_manifest(source), []
    table, left_out = manifest_from_films(source, LandmarkDetector(), subject, progress)
    return table, [line.replace("\n", " ") for line in left_out]


def evaluate_manifest(
    table: pd.DataFrame, split: str, weights: Path | None = None, *, detect: bool = False, device: str = "auto",
    progress: Progress | None = None,
) -> KneePredictions:  # fmt: skip
    """Calibrated predictions of a grader for the labelled knees of one split of a manifest.

    With landmarks in the manifest the network alone is measured, without them the whole pipeline of `kneegrade grade`.

    Args:
        table: a validated manifest with absolute image paths, or paths relative to the working directory.
        split: name of the split; `row` counts its knees.
        weights: of a grader; the shipped ones by default.
        detect: measure the whole pipeline although the manifest has landmarks.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Raises:
        RecipeError: the split has no knee or no grade, only some of its knees have landmarks, or no knee could be
            graded.
        WeightsError: the weights are missing, damaged or of another kind.
    """
    own = rows_of_split(table, split)
    marked = has_landmarks(own)
    if not detect and marked.any() and not marked.all():
        raise RecipeError(
            f"{int((~marked).sum())} of the {len(own)} knees have no landmarks; use --detect to detect the landmarks "
            "of all knees."
        )
    if np.isnan(target_distributions(own)).all():
        raise RecipeError(f"No knee in split {split!r} has a grade to compare with; choose a split with labels.")
    result = predict_knees(own, weights, pipeline=detect or not marked.any(), device=device, progress=progress)
    if not len(result):
        raise RecipeError(f"None of the {len(own)} knees could be graded; the first: {result.left_out[0]}")
    return result


def site_profile(
    source: Path | pd.DataFrame, weights: Path | None = None, *, subject: str = "(.+)", device: str = "auto",
    progress: Progress | None = None,
) -> tuple[SiteProfile, list[str]]:  # fmt: skip
    """Drift features and grades of the knees of a site, and a line for each film or knee that was left out.

    The grades are on the scale of the study's readers, also where the weights bring the scale of a site's reader.

    Args:
        source: a folder of films; a manifest (`.parquet`), of which all splits are used, or its table; a dataset; or
            a saved profile (`.parquet`).
        weights: of a grader; the shipped ones by default.
        subject: regular expression whose first group, searched in a film's name, is the person; for folders of films.
        device: "auto", "cpu" or "cuda".
        progress: called with (films done, films in all).

    Raises:
        KneeGradeError: there is no knee, the weights cannot be used, or a saved profile is of another version or of
            other weights.
    """
    path = weights or shipped_path("grader")
    loaded = load_weights(path, "grader")
    if isinstance(source, Path) and source.suffix == ".parquet" and "features" in _parquet_columns(source):
        profile = SiteProfile.load(source)
        if profile.weights != loaded.sha256:
            raise RecipeError(
                f"{source.name} is a profile of other weights than {path.name}; create it again with these weights."
            )
        return profile, []
    knees = predict_knees(
        source, path, features="drift", subject=subject, device=device, workers=os.cpu_count() or 1, progress=progress
    )
    probabilities = Postprocessor.of(loaded)(knees.logits).on_study_scale.probabilities.astype(np.float32)
    profile = SiteProfile(requested(knees.drift_features), probabilities, knees.subject, loaded.sha256)
    return profile, list(knees.left_out)


def _parquet_columns(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"There is no file {path}; check the path.", code="no_such_file")
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} is not a Parquet table.") from error
