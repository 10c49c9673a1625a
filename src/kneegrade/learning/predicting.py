"""What a network says of the knees of a store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.coherence import concatenate_probabilities
from kneegrade.evaluation import Predictions
from kneegrade.learning.augmentation import no_changes
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import Store
from kneegrade.network import GradeLogits, GradingNetwork, load_network
from kneegrade.schema import TARGETS
from kneegrade.uncertainty import Claim, Claims
from kneegrade.weights import load_weights

BATCH = 64


@torch.no_grad()
def predicted_batches(
    network: GradingNetwork, regions: Regions, rows: NDArray[np.int64], bf16: bool = False
) -> Iterator[tuple[GradeLogits, Tensor]]:
    """What `network` says of `rows` in batches of 64, without augmentation, and which landmarks it saw (B, 74)."""
    device = regions.device
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = regions.batch(part, no_changes(len(part)))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            yield network(batch.roi, batch.landmarks_px, batch.visible), batch.visible


def predicted_logits(
    network: GradingNetwork, regions: Regions, rows: NDArray[np.int64], bf16: bool = False
) -> dict[str, Tensor]:
    """Grade name → (N, classes) float32 logits of `rows`, on the CPU."""
    parts = [output.logits for output, _ in predicted_batches(network, regions, rows, bf16)]
    return {t.name: torch.cat([part[t.name].cpu() for part in parts]) for t in TARGETS}


def feature_mean(network: GradingNetwork, regions: Regions, rows: NDArray[np.int64], bf16: bool = False) -> Tensor:
    """(P, R) mean of what the heads read over `rows`; what is not visible counts as zero."""
    return torch.cat(
        [output.pooled.float().cpu() for output, _ in predicted_batches(network, regions, rows, bf16)]
    ).mean(0)


def predictions_of(logits: dict[str, Tensor], store: Store, rows: NDArray[np.int64]) -> Predictions:
    """Predictions for `rows` beside what the store knows of them."""
    return Predictions(
        probabilities=concatenate_probabilities(logits).numpy(),
        targets=store.targets[rows],
        subject=store.subject[rows],
        knee=rows,
    )


def graders_predictions(path: Path, store: Store, rows: NDArray[np.int64], device: str = "cpu") -> Predictions:
    """What a grader's weights claim of the knees `rows` of a store; on a CPU in the precision of `kneegrade grade`.

    Raises:
        WeightsError: missing or damaged weights, or another kind.
    """
    held = load_weights(path, "grader")
    network = load_network(held).quickened(device)
    claim = Claims.of(held)(predicted_logits(network, Regions(store, network.plan.roi_px, device), rows))
    return claimed(claim, store, rows)


def claimed(claim: Claim, store: Store, rows: NDArray[np.int64]) -> Predictions:
    """What is claimed of `rows` beside what the store knows of them."""
    return Predictions(
        probabilities=claim.probabilities.astype(np.float32),
        targets=store.targets[rows],
        subject=store.subject[rows],
        knee=rows,
        grades=claim.grades,
        sets=claim.sets,
    )
