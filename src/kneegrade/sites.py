"""A site's own films, unlabelled: how they differ from those that a grader learnt from, and adapting it to them."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kneegrade.anatomy import LandmarkDetector
from kneegrade.anatomy.landmarks import NUM_LANDMARKS
from kneegrade.cohorts import load_manifest, target_distributions
from kneegrade.cohorts.unlabelled import found_manifest
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation.drift import Profile
from kneegrade.files import replacing
from kneegrade.grader import choose_device
from kneegrade.learning.adaptation import Adaptation
from kneegrade.learning.adapting import AdaptationRun, Adapted
from kneegrade.learning.cutting import build_store
from kneegrade.learning.predicting import predicted_batches
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import Store, load_stores
from kneegrade.network import NetworkPlan, load_network, visible_mean
from kneegrade.uncertainty import Claims
from kneegrade.weights import load_weights, shipped_path

Progress = Callable[[int, int], None]


class Moving(Protocol):
    """Is told (done, all) and, while a network learns, the loss."""

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        """Move on."""


IDENTITY = "adaptation.txt"


def site_profile(
    source: Path, weights: Path | None = None, *, subject: str = "(.+)", device: str = "auto",
    progress: Progress | None = None,
) -> tuple[Profile, list[str]]:  # fmt: skip
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
        profile = Profile.load(source)
        if profile.weights != held.sha256:
            raise RecipeError(f"{source.name} is the profile of another network; make it again with these weights.")
        return profile, []
    network, claims = load_network(held), Claims.of(held)
    with tempfile.TemporaryDirectory() as folder:
        store, bad = _store_of(source, Path(folder) / "store", subject, progress)
        regions = Regions(store, network.plan.roi_px, device)
        features, shares = [], []
        for output, visible in predicted_batches(network, regions, np.arange(len(store))):
            features.append(_features(output.pooled, visible, network.plan).float().cpu())
            shares.append(claims(output.logits).probabilities)
    profile = Profile(
        torch.cat(features).numpy(), np.concatenate(shares).astype(np.float32), store.subject, held.sha256
    )
    return profile, bad


def _features(pooled: Tensor, visible: Tensor, plan: NetworkPlan) -> Tensor:
    """(N, F): the mean over the visible landmarks where the plan has any, then each of its other places.

    Args:
        pooled: (N, P, R), what the heads read at each place of the plan.
        visible: (N, 74) bool.
        plan: of the network.
    """
    if not plan.pooling.startswith("keypoints"):
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


def _store_of(source: Path, place: Path, subject: str, progress: Progress | None) -> tuple[Store, list[str]]:
    """The knees of a store, or of a manifest or a folder of films, cut into the store `place` if need be."""
    if (source / "knees.npz").is_file():
        return load_stores((source,)), []
    left_out = place.with_name(place.name + "-left-out.txt")
    if place.is_dir():
        return load_stores((place,)), left_out.read_text(encoding="utf-8").splitlines()
    if source.suffix == ".parquet":
        table, bad = load_manifest(source), list[str]()
    else:
        table, bad = found_manifest(source, LandmarkDetector(), subject, progress)
    return _cut(table, place, bad, progress), left_out.read_text(encoding="utf-8").splitlines()


def _cut(table: pd.DataFrame, place: Path, bad: list[str], progress: Progress | None) -> Store:
    """A new store; what could not be cut joins `bad`, which is kept beside it."""
    bad = [*bad, *build_store(table, place, workers=os.cpu_count() or 1, progress=progress)]
    with replacing(place.with_name(place.name + "-left-out.txt")) as stream:
        stream.writelines(line.replace("\n", " ") + "\n" for line in bad)
    return load_stores((place,))


def adapt(
    images: Path, labelled: Path, directory: Path, settings: Adaptation, weights: Path | None = None, *,
    split: str | None = None, subject: str = "(.+)", device: str = "auto", progress: Moving | None = None,
) -> tuple[Adapted, list[str]]:  # fmt: skip
    """Adapt a grader to a folder of films; a second call goes on where the first was stopped.

    `directory` gets the stores of the films and of the guard, `guard.json`, the checkpoint and, where the guard saw
    the network get better, `weights.safetensors` with its description, which names what it comes from.

    Args:
        images: films without labels: a folder, a manifest or a store.
        labelled: manifest of knees whose grades are known and which guard adaptation, best of the same site; of other
            people, and not such as the network was trained on.
        directory: for all that is written.
        settings: how it goes.
        weights: a grader's; the shipped ones by default.
        split: which knees of the manifest guard; None: all.
        subject: as in `site_profile`.
        device: "auto", "cpu" or "cuda".
        progress: called with (done, all, loss or None).

    Returns:
        How it ended, and a line per film or knee that was left out.

    Raises:
        KneeGradeError: no knees, a guard without grades, films on both sides, another adaptation's folder, or weights
            that cannot be used.
    """
    held = load_weights(weights or shipped_path("grader"), "grader")
    if not images.exists():
        raise UsageError(f"{images} does not exist; check the path.", code="no_such_file")
    guard_table = _guard(labelled, split, images)
    count = None if progress is None else partial(progress, loss=None)
    _check_identity(directory, _identity(images, labelled, split, subject))
    films, bad = _store_of(images, directory / "films", subject, count)
    place = directory / "guard"
    guard = load_stores((place,)) if place.is_dir() else _cut(guard_table, place, [], count)
    lost = place.with_name("guard-left-out.txt").read_text(encoding="utf-8").splitlines()
    run = AdaptationRun(held, films, guard, directory, settings, choose_device(device))
    result = run.run(progress)
    if result.best_step:
        run.write(result, len(np.unique(films.subject)))
    return result, [*bad, *lost]


def _guard(labelled: Path, split: str | None, images: Path) -> pd.DataFrame:
    """The graded knees of a manifest that guard.

    Raises:
        RecipeError: none, or some are on the films that are learnt from.
    """
    table = load_manifest(labelled)
    graded = np.isfinite(target_distributions(table)).any(axis=1)
    chosen = graded if split is None else graded & (table["split"] == split).to_numpy()
    table = table.iloc[np.flatnonzero(chosen)].reset_index(drop=True)
    if table.empty:
        raise RecipeError(
            f"No knee of {labelled.name} (split {split or 'any'}) has a grade; such knees guard adaptation."
        )
    learnt_from = {str(p.resolve()) for p in images.rglob("*")} if images.is_dir() else set()
    shared = sum(str(Path(path).resolve()) in learnt_from for path in table["image_path"])
    if shared:
        raise RecipeError(
            f"{shared} knees of {labelled.name} are on films below {images}; films that guard must not be learnt from."
        )
    return table


def _identity(images: Path, labelled: Path, split: str | None, subject: str) -> str:
    """What an adaptation's folder is about: the films by name and size, the labelled manifest by content."""
    digest = hashlib.sha256(labelled.read_bytes())
    for path in sorted(p for p in images.rglob("*") if p.is_file()) if images.is_dir() else [images]:
        digest.update(f"{path.relative_to(images)} {path.stat().st_size}".encode())
    return f"films {images.name} {subject}, guard {labelled.name} split {split or 'any'}, {digest.hexdigest()}"


def _check_identity(directory: Path, identity: str) -> None:
    """Make the folder and say in it what it is about, or see that it is about this."""
    directory.mkdir(parents=True, exist_ok=True)
    marker = directory / IDENTITY
    begun = any((directory / name).exists() for name in ("films", "films.tmp", "guard", "guard.tmp"))
    if begun and marker.is_file() and marker.read_text(encoding="utf-8") != identity:
        raise RecipeError(f"{directory} holds an adaptation of other films or labels; name another folder.")
    with replacing(marker) as stream:
        stream.write(identity)
