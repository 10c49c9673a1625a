"""A site's own films, unlabelled: how they differ from those that a grader learnt from, and adapting it to them."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from kneegrade.anatomy import LandmarkDetector
from kneegrade.cohorts import load_manifest, target_distributions
from kneegrade.cohorts.unlabelled import found_manifest
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation.drift import Profile
from kneegrade.grader import choose_device
from kneegrade.learning.adapting import Adaptation, AdaptationRun, Adapted
from kneegrade.learning.cutting import build_store
from kneegrade.learning.phantoms import build_phantom_store
from kneegrade.learning.predicting import predicted_batches
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import STORE_WIDTHS, Store, load_stores
from kneegrade.network import load_network
from kneegrade.uncertainty import Claims
from kneegrade.weights import load_weights, shipped_path

Progress = Callable[[int, int], None]


class Moving(Protocol):
    """Is told (done, all) and, while a network learns, the loss."""

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Move on."""


GUARD_PHANTOMS, GUARD_SEED = 200, 4_000_000_007


def site_profile(
    source: Path, weights: Path | None = None, *, device: str = "auto", progress: Progress | None = None
) -> tuple[Profile, list[str]]:
    """What a grader's network sees in the knees of a site, and a line per film or knee that was left out.

    Args:
        source: a folder of films; a manifest (`.parquet`), all splits; a store; or a profile that an earlier call saved
            (`.parquet` too).
        weights: a grader's; the shipped ones by default.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all).

    Raises:
        KneeGradeError: no knee there, or weights that cannot be used.
    """
    held, device = load_weights(weights or shipped_path("grader"), "grader"), choose_device(device)
    if source.suffix == ".parquet" and "features" in _columns(source):
        return Profile.load(source), []
    network, claims = load_network(held), Claims.of(held)
    with _knees(source, progress) as (store, bad):
        regions = Regions(store, network.plan.roi_px, device)
        features, shares = [], []
        for output, visible in predicted_batches(network, regions, np.arange(len(store))):
            places = output.pooled.shape[1]
            seen = visible.sum(1, keepdim=True).clamp(min=1) if network.plan.pooling == "keypoints" else places
            features.append((output.pooled.sum(1) / seen).float().cpu())
            shares.append(claims(output.logits).probabilities)
        subject = store.subject
    return Profile(torch.cat(features).numpy(), np.concatenate(shares).astype(np.float32), subject, held.sha256), bad


def _columns(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} is not a Parquet table.") from error


@contextmanager
def _knees(source: Path, progress: Progress | None) -> Iterator[tuple[Store, list[str]]]:
    """The knees of a store, a manifest or a folder of films; the latter two are cut into a temporary store."""
    if (source / "knees.npz").is_file():
        yield load_stores((source,)), []
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "store"
        table, bad = (load_manifest(source), []) if source.suffix == ".parquet" else _found(source, progress)
        bad += build_store(table, place, workers=os.cpu_count() or 1, progress=progress)
        yield load_stores((place,)), bad


def _found(films: Path, progress: Progress | None) -> tuple[pd.DataFrame, list[str]]:
    return found_manifest(films, LandmarkDetector(), progress)


def adapt(
    images: Path, directory: Path, settings: Adaptation, weights: Path | None = None, labelled: Path | None = None, *,
    device: str = "auto", progress: Moving | None = None,
) -> tuple[Adapted, list[str]]:  # fmt: skip
    """Adapt a grader to a folder of films; a second call goes on where the first was stopped.

    `directory` gets the stores of the films and of the guard, `guard.json`, the checkpoint and, where the guard saw
    the network get better, `weights.safetensors` with its description, which names what it comes from.

    Args:
        images: films without labels, a folder or a store.
        directory: for all that is written.
        settings: how it goes.
        weights: a grader's; the shipped ones by default.
        labelled: manifest of knees whose grades are known and which guard adaptation, best of the same site and of
            other people; by default 200 phantoms, which can only tell that the network forgets what a knee is.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all, loss or None).

    Returns:
        How it ended, and a line per film or knee that was left out.

    Raises:
        KneeGradeError: no knees, a guard without grades, another adaptation's folder, or weights that cannot be used.
    """
    held = load_weights(weights or shipped_path("grader"), "grader")
    directory.mkdir(parents=True, exist_ok=True)
    _check_identity(directory, f"{held.sha256} {images.resolve()} {labelled and labelled.resolve()}")
    count = None if progress is None else partial(progress, loss=None)
    films, bad = _films_store(images, directory / "films", count)
    guard = _guard_store(labelled, directory / "guard", count)
    run = AdaptationRun(held, films, guard, directory, settings, choose_device(device))
    result = run.run(progress)
    if result.best_step:
        run.write(result, len(np.unique(films.subject)))
    return result, bad


def _check_identity(directory: Path, identity: str) -> None:
    marker = directory / "adaptation.txt"
    if marker.is_file() and marker.read_text(encoding="utf-8") != identity:
        raise RecipeError(f"{directory} holds another adaptation; name another folder.")
    marker.write_text(identity, encoding="utf-8")


def _films_store(images: Path, place: Path, progress: Progress | None) -> tuple[Store, list[str]]:
    if (images / "knees.npz").is_file():
        return load_stores((images,)), []
    if place.is_dir():
        return load_stores((place,)), []
    table, bad = _found(images, progress)
    bad += build_store(table, place, widths=STORE_WIDTHS, workers=os.cpu_count() or 1, progress=progress)
    return load_stores((place,)), bad


def _guard_store(labelled: Path | None, place: Path, progress: Progress | None) -> Store:
    if place.is_dir():
        return load_stores((place,))
    if labelled is None:
        build_phantom_store(place, GUARD_PHANTOMS, "paper", GUARD_SEED % 2**32, widths=STORE_WIDTHS, progress=progress)
        return load_stores((place,))
    whole = load_manifest(labelled)
    graded = np.flatnonzero(np.isfinite(target_distributions(whole)).any(axis=1))
    table = whole.iloc[graded].reset_index(drop=True)
    if table.empty:
        raise RecipeError(f"No knee of {labelled.name} has a grade; labelled knees are to guard adaptation.")
    build_store(table, place, workers=os.cpu_count() or 1, progress=progress)
    return load_stores((place,))
