"""Labels that earlier networks take part in: a student learns from what was read and from what its teachers say.

Readings err; a network that has learnt from thousands of them says of one film what readers would say on average, and
several networks say it better than one (born-again networks, Furlanello et al. 2018). Teachers see the regions as they
are, the student changed ones.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import RecipeError
from kneegrade.schema import TARGETS
from kneegrade.training.config import Distillation
from kneegrade.training.dataset import KneeDataset
from kneegrade.training.predict import graders_predictions
from kneegrade.weights import identity_of, read_description


def taught(
    store: KneeDataset, rows: NDArray[np.int64], teaching: Distillation, kept: Path, device: str = "cpu"
) -> NDArray[np.float32]:
    """(N, 29) targets of all knees of `store`, the teachers deciding `teaching.share` of every label of `rows`.

    A grade that was never read stays missing. What the teachers say is asked once and kept in the file `kept`, for a
    run that is resumed.

    Args:
        store: knees.
        rows: training knees; of these only knees of `teaching.sources` are taught.
        teaching: the recipe's.
        kept: NumPy file.
        device: where teachers compute.

    Raises:
        RecipeError: there is no training knee of one of the sources, or `kept` is of other knees.
        WeightsError: missing or damaged weights, or another kind.
    """
    missing = set(teaching.sources) - set(store.source[rows].tolist())
    if missing:
        raise RecipeError(f"teaching.sources: no knee of {', '.join(sorted(missing))} is trained on.")
    rows = rows[np.isin(store.source[rows], teaching.sources)]
    if not kept.is_file():
        said = [graders_predictions(path, store, rows, device).probabilities for path in teaching.teachers]
        partial = kept.with_suffix(".tmp.npy")
        np.save(partial, agreed(said))
        partial.replace(kept)
    opinion, targets = np.load(kept), store.targets.copy()
    if opinion.shape != targets[rows].shape:
        raise RecipeError(f"{kept.name} in the run's folder is of {len(opinion)} knees, not of these {len(rows)}.")
    targets[rows] = (1 - teaching.share) * targets[rows] + teaching.share * opinion
    return targets


def teacher_identities(teaching: Distillation | None) -> list[dict[str, str]]:
    """Name and SHA-256 of every teacher, as a description of the student keeps them."""
    return [] if teaching is None else [identity_of(read_description(path)) for path in teaching.teachers]


def agreed(said: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """(N, 29) geometric means of several (N, 29) distributions, each grade's made to sum to 1."""
    logs = np.mean([np.log(np.maximum(each, 1e-6)) for each in said], axis=0)
    result = np.exp(logs)
    for target in TARGETS:
        result[:, target.one_hot] /= result[:, target.one_hot].sum(1, keepdims=True)
    return np.asarray(result, dtype=np.float32)
