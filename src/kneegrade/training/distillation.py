"""Knowledge distillation: soft targets are readings mixed with the predictions of earlier networks, the teachers.

Readings contain errors. A network trained on thousands of readings predicts what readers would report on average, and
several networks together predict it better than one (born-again networks, Furlanello et al. 2018). Teachers see the
crops without augmentation, the student reads augmented crops.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kneegrade.errors import RecipeError
from kneegrade.files import replacing
from kneegrade.schema import TARGETS
from kneegrade.training.config import Distillation
from kneegrade.training.dataset import KneeDataset
from kneegrade.training.predict import dataset_predictions
from kneegrade.weights import read_description, weights_reference


def distilled_targets(
    dataset: KneeDataset, rows: NDArray[np.int64], distillation: Distillation, path: Path, device: str = "cpu"
) -> NDArray[np.float32]:
    """(N, 29) targets of all knees: (1 - share)·reading + share·soft target for the distilled training knees.

    A grade that was never read stays missing (NaN). The soft targets are computed once and saved, so that a resumed run
    does not need the teachers.

    Args:
        dataset: N knees.
        rows: training knees; those of `distillation.sources` get soft targets.
        distillation: section of the recipe.
        path: `.npy` file of the soft targets; read if it exists, else written.
        device: where the teachers are run.

    Raises:
        RecipeError: no training knee is of one of the sources, or the saved soft targets are for other knees.
        WeightsError: weights of a teacher are missing, damaged or of another kind.
    """
    missing = set(distillation.sources) - set(dataset.source[rows].tolist())
    if missing:
        raise RecipeError(
            f"distillation.sources: no training knee is of source {', '.join(sorted(missing))}; name sources of the "
            "datasets."
        )
    rows = rows[np.isin(dataset.source[rows], distillation.sources)]
    if not path.is_file():
        predicted = [dataset_predictions(weights, dataset, rows, device) for weights in distillation.teachers]
        with replacing(path, "wb") as stream:
            np.save(stream, geometric_mean([each.probabilities for each in predicted]))
    soft, targets = np.load(path), dataset.targets.copy()
    if soft.shape != targets[rows].shape:
        raise RecipeError(
            f"{path.name} in the run directory has soft targets of {len(soft)} knees, but the recipe selects "
            f"{len(rows)}; start a new run."
        )
    targets[rows] = (1 - distillation.share) * targets[rows] + distillation.share * soft
    return targets


def teacher_identities(distillation: Distillation | None) -> list[dict[str, str]]:
    """Name and SHA-256 of every teacher's weights, for the description of the student's weights."""
    return [] if distillation is None else [weights_reference(read_description(path)) for path in distillation.teachers]


def geometric_mean(probabilities: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """(N, 29) geometric means of several (N, 29) distributions, renormalised so that each grade's sum to 1."""
    logs = np.mean([np.log(np.maximum(each, 1e-6)) for each in probabilities], axis=0)
    result = np.exp(logs)
    for target in TARGETS:
        result[:, target.one_hot] /= result[:, target.one_hot].sum(1, keepdims=True)
    return np.asarray(result, dtype=np.float32)
