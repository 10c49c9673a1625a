"""What a grader's network sees in the films of a site, to compare it with another site's.

What a network says of the knees of a store.

Weights and labelled knees → predictions: what `kneegrade evaluate` scores.

With the manifest's landmarks the network alone is measured; without, the whole corridor from the file on.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.coherence import concatenate_probabilities
from kneegrade.cohorts import load_manifest, target_distributions
from kneegrade.cohorts.own_tables import manifest_from_films
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation import Predictions
from kneegrade.evaluation.two_sample import SiteProfile
from kneegrade.files import replacing
from kneegrade.grader import Grader, choose_device
from kneegrade.imaging import Source
from kneegrade.network import GradeLogits, GradingNetwork, ModelConfig, load_network, visible_mean
from kneegrade.results import GradedRadiograph, GradeResult
from kneegrade.schema import ONE_HOT_LENGTH, TARGETS
from kneegrade.training.augmentation import identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.build_dataset import build_dataset
from kneegrade.training.dataset import KneeDataset, load_datasets
from kneegrade.uncertainty import CalibratedGrades, Postprocessor
from kneegrade.weights import load_weights, shipped_path

BATCH = 64


@torch.no_grad()
def predicted_batches(
    network: GradingNetwork, regions: CropBatches, rows: NDArray[np.int64], bf16: bool = False
) -> Iterator[tuple[GradeLogits, Tensor]]:
    """What `network` says of `rows` in batches of 64, without augmentation, and which landmarks it saw (B, 74)."""
    device = regions.device
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = regions.batch(part, identity_params(len(part)))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            yield network(batch.roi, batch.landmarks_px, batch.visible), batch.visible


def predicted_logits(
    network: GradingNetwork, regions: CropBatches, rows: NDArray[np.int64], bf16: bool = False
) -> dict[str, Tensor]:
    """Grade name → (N, classes) float32 logits of `rows`, on the CPU."""
    parts = [output.logits for output, _ in predicted_batches(network, regions, rows, bf16)]
    return {t.name: torch.cat([part[t.name].cpu() for part in parts]) for t in TARGETS}


def feature_mean(network: GradingNetwork, regions: CropBatches, rows: NDArray[np.int64], bf16: bool = False) -> Tensor:
    """(P, R) mean of what the heads read over `rows`; what is not visible counts as zero."""
    return torch.cat(
        [output.pooled.float().cpu() for output, _ in predicted_batches(network, regions, rows, bf16)]
    ).mean(0)


def predictions_of(logits: dict[str, Tensor], store: KneeDataset, rows: NDArray[np.int64]) -> Predictions:
    """Predictions for `rows` beside what the store knows of them."""
    return Predictions(
        probabilities=concatenate_probabilities(logits).numpy(),
        targets=store.targets[rows],
        subject=store.subject[rows],
        knee=rows,
    )


def graders_predictions(path: Path, store: KneeDataset, rows: NDArray[np.int64], device: str = "cpu") -> Predictions:
    """What a grader's weights claim of the knees `rows` of a store; on a CPU in the precision of `kneegrade grade`.

    Raises:
        WeightsError: missing or damaged weights, or another kind.
    """
    held = load_weights(path, "grader")
    network = load_network(held).optimized_for_inference(device)
    claim = Postprocessor.of(held)(predicted_logits(network, CropBatches(store, network.config.roi_px, device), rows))
    return claimed(claim, store, rows)


def claimed(claim: CalibratedGrades, store: KneeDataset, rows: NDArray[np.int64]) -> Predictions:
    """What is claimed of `rows` beside what the store knows of them."""
    return Predictions(
        probabilities=claim.probabilities.astype(np.float32),
        targets=store.targets[rows],
        subject=store.subject[rows],
        knee=rows,
        grades=claim.grades,
        sets=claim.sets,
    )


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
        bad = build_dataset(table, Path(folder) / "store", progress=progress)
        store = load_datasets((Path(folder) / "store",))
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


def site_profile(
    source: Path, weights: Path | None = None, *, subject: str = "(.+)", device: str = "auto",
    progress: Progress | None = None,
) -> tuple[SiteProfile, list[str]]:  # fmt: skip
    """What a grader's network sees in the knees of a site, and a line per film or knee that was left out.

    Args:
        source: a folder of films; a manifest (`.parquet`), all splits; a store; or a profile that an earlier call saved
            (`.parquet` too).
        weights: a grader's; the shipped ones by default.
        subject: regular expression whose first group, found in a film's name, is the person; of folders of films only.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Raises:
        KneeGradeError: no knee there, a profile of another version, or weights that cannot be used or are not those of
            the profile.
    """
    held, device = load_weights(weights or shipped_path("grader"), "grader"), choose_device(device)
    if source.suffix == ".parquet" and "features" in _columns(source):
        profile = SiteProfile.load(source)
        if profile.weights != held.sha256:
            raise RecipeError(f"{source.name} is the profile of another network; make it again with these weights.")
        return profile, []
    network, claims = load_network(held), Postprocessor.of(held)
    with tempfile.TemporaryDirectory() as folder:
        store, bad = _store_of(source, Path(folder) / "store", subject, progress)
        regions = CropBatches(store, network.config.roi_px, device)
        features, shares = [], []
        for output, visible in predicted_batches(network, regions, np.arange(len(store))):
            features.append(site_features(output.pooled, visible, network.config).float().cpu())
            shares.append(claims(output.logits).probabilities)
    profile = SiteProfile(
        torch.cat(features).numpy(), np.concatenate(shares).astype(np.float32), store.subject, held.sha256
    )
    return profile, bad


def site_features(pooled: Tensor, visible: Tensor, config: ModelConfig) -> Tensor:
    """(N, F): the mean over the visible landmarks where the network has any, then each of its other read points.

    Args:
        pooled: (N, P, R), what the heads read at each read point.
        visible: (N, 74) bool.
        config: of the network.
    """
    if not config.pooling.startswith("keypoints"):
        return pooled.flatten(1)
    mean = visible_mean(pooled[:, :NUM_LANDMARKS], visible)
    return torch.cat([mean, pooled[:, NUM_LANDMARKS:].flatten(1)], 1)


def _columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"There is no file {path}.", code="no_such_file")
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} is not a Parquet table.") from error


def _store_of(source: Path, place: Path, subject: str, progress: Progress | None) -> tuple[KneeDataset, list[str]]:
    """The knees of a store, or of a manifest or a folder of films, cut into the store `place` if need be."""
    if (source / "knees.npz").is_file():
        return load_datasets((source,)), []
    left_out = place.with_name(place.name + "-left-out.txt")
    if place.is_dir():
        return load_datasets((place,)), left_out.read_text(encoding="utf-8").splitlines()
    if source.suffix == ".parquet":
        table, bad = load_manifest(source), list[str]()
    else:
        table, bad = manifest_from_films(source, LandmarkDetector(), subject, progress)
    return _cut_dataset(table, place, bad, progress), left_out.read_text(encoding="utf-8").splitlines()


def _cut_dataset(table: pd.DataFrame, place: Path, bad: list[str], progress: Progress | None) -> KneeDataset:
    """A new store; what could not be cut joins `bad`, which is kept beside it."""
    bad = [*bad, *build_dataset(table, place, workers=os.cpu_count() or 1, progress=progress)]
    with replacing(place.with_name(place.name + "-left-out.txt")) as stream:
        stream.writelines(line.replace("\n", " ") + "\n" for line in bad)
    return load_datasets((place,))
