"""The objective of a run: L = λ_cls L_cls + λ_gmm L_gmm (paper, Eq. 5), and the switches that go past it.

Losses on the seven grades: prevalence-weighted cross entropy with missing and soft labels (paper, Eq. 1).
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.coherence import (
    JointTable,
    concatenate_probabilities,
    fit_mixture,
    incoherence_loss,
    smoothed_table,
    tuple_counts,
)
from kneegrade.errors import RecipeError
from kneegrade.network import GradeLogits
from kneegrade.schema import TARGETS, grade_tuple_counts
from kneegrade.training.config import Loss


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


FEWEST_TUPLES = 50


class SemiSupervisedLoss(nn.Module):
    """What a run minimises; frozen.

    Args:
        loss: the recipe's.
        targets: (N, 29) distributions of the labelled training knees, NaN where missing: class weights come from
            them and, as the recipe says, what goes together.
        seed: of the mixture's noise and start.

    Raises:
        RecipeError: coherence is to be made of labels, and too few knees have all seven grades.
    """

    class_weights: Tensor

    def __init__(self, loss: Loss, targets: NDArray[np.float32], seed: int) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("class_weights", class_weights(torch.from_numpy(targets), loss.prevalence_cap))
        counts = grade_tuple_counts()
        if loss.coherence and loss.grades_from == "labelled":
            counts = tuple_counts(targets)
            if sum(counts.values()) < FEWEST_TUPLES:
                raise RecipeError(
                    f"{sum(counts.values())} labelled knees have all seven grades, {FEWEST_TUPLES} are needed to learn "
                    "what goes together; loss.grades_from=packaged takes the packaged counts instead."
                )
        self.mixture = fit_mixture(counts, components=loss.components, sigma=loss.sigma, seed=seed, floor=loss.floor)
        self.joint = JointTable(smoothed_table(counts))

    def forward(self, output: GradeLogits, targets: Tensor, coherent: bool) -> dict[str, Tensor]:
        """`loss`, and its parts by name, as float32 scalars.

        Args:
            output: of the network, labelled and unlabelled knees together.
            targets: (B, 29) distributions, NaN where missing or not to be seen.
            coherent: whether coherence takes part (not while warming up).
        """
        recipe = self.loss
        parts = {"cls": classification_loss(output.logits, targets, self.class_weights)}
        total = recipe.lambda_cls * parts["cls"]
        if recipe.lambda_mse:
            parts["mse"] = regression_loss(output.numbers, targets)
            total = total + recipe.lambda_mse * parts["mse"]
        if coherent:
            vector = concatenate_probabilities(output.logits)
            if recipe.lambda_gmm:
                g = self.mixture.log_probability(vector)
                parts["g"], parts["gmm"] = g.mean(), incoherence_loss(g, recipe.tau).mean()
                total = total + recipe.lambda_gmm * parts["gmm"]
            if recipe.lambda_joint:
                parts["joint"] = -self.joint.log_expectation(vector).mean()
                total = total + recipe.lambda_joint * parts["joint"]
        return {"loss": total, **parts}
