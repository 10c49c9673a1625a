"""What a grader's network sees in the films of a site, to compare it with another site's."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kneegrade.anatomy import LandmarkDetector
from kneegrade.cohorts import load_manifest
from kneegrade.cohorts.unlabelled import found_manifest
from kneegrade.errors import RecipeError, UsageError
from kneegrade.evaluation.drift import Profile
from kneegrade.files import replacing
from kneegrade.grader import choose_device
from kneegrade.learning.cutting import build_store
from kneegrade.learning.predicting import predicted_batches
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import Store, load_stores
from kneegrade.network import load_network
from kneegrade.uncertainty import Claims
from kneegrade.weights import load_weights, shipped_path

Progress = Callable[[int, int], None]


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
        KneeGradeError: no knee there, or weights that cannot be used or are not those of the profile.
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
            places = output.pooled.shape[1]
            seen = visible.sum(1, keepdim=True).clamp(min=1) if network.plan.pooling == "keypoints" else places
            features.append((output.pooled.sum(1) / seen).float().cpu())
            shares.append(claims(output.logits).probabilities)
    profile = Profile(
        torch.cat(features).numpy(), np.concatenate(shares).astype(np.float32), store.subject, held.sha256
    )
    return profile, bad


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
