"""Losses on the seven grades: prevalence-weighted cross entropy with missing and soft labels (paper, Eq. 1)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kneegrade.schema import TARGETS


def class_weights(targets: Tensor, cap: float) -> Tensor:
    """(29,) inverse prevalence of each class among the knees that have the grade.

    Capped at `cap` times the least weight of the grade, scaled to mean 1 under the training distribution, 0 for a
    class that does not occur. The paper only says "prevalence weighted"; cap and scale are ours.

    Args:
        targets: (N, 29) distributions, NaN where missing.
        cap: largest ratio between two weights of one grade; 1 switches the weighting off.
    """
    weights = torch.zeros(targets.shape[1])
    for target in TARGETS:
        share = targets[:, target.one_hot].nanmean(0).nan_to_num(0.0)
        occurs = share > 0
        if occurs.any():
            own = torch.where(occurs, 1 / share.clamp(min=1e-12), 0.0)
            own = torch.minimum(own, own[occurs].min() * cap)
            weights[target.one_hot] = own / (own * share).sum()
    return weights


def classification_loss(logits: Mapping[str, Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    """L_cls = Σ_grades mean over knees of Σ_c w_c t_c (−log p_c) (Eq. 1 with its sign mended); float32 scalar.

    A knee without a grade takes no part in that grade's mean.

    Args:
        logits: grade name → (B, classes).
        targets: (B, 29) distributions, NaN where missing.
        weights: (29,) class weights.
    """
    total = targets.new_zeros(())
    for target in TARGETS:
        wanted = targets[:, target.one_hot]
        present = ~wanted.isnan().any(1)
        losses = -(weights[target.one_hot] * wanted.nan_to_num(0.0) * logits[target.name].log_softmax(1)).sum(1)
        total = total + (losses * present).sum() / present.sum().clamp(min=1)
    return total


def regression_loss(numbers: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Sum over grades of the mean squared error of the predicted numbers; float32 scalar.

    The auxiliary loss of Antony et al. (2017), for seven grades; a soft label counts as its mean grade, a missing one
    not at all.

    Args:
        numbers: grade name → (B,).
        targets: (B, 29) distributions, NaN where missing.
    """
    total = targets.new_zeros(())
    for target in TARGETS:
        wanted = targets[:, target.one_hot] @ torch.arange(target.classes, device=targets.device, dtype=targets.dtype)
        present = ~wanted.isnan()
        errors = (numbers[target.name] - wanted.nan_to_num(0.0)).square()
        total = total + (errors * present).sum() / present.sum().clamp(min=1)
    return total
