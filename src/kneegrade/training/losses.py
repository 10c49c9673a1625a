"""The losses of the grading network.

L_cls is a prevalence-weighted cross entropy over the seven grades, with missing and soft labels (paper, Eq. 1).
`SemiSupervisedLoss` is L = λ_cls L_cls + λ_gmm L_gmm (Eq. 5), plus optional regression and exact coherence losses that
are not in the paper.
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
    """(29,) weights: inverse prevalence of each class among the knees that have the grade.

    Weights are capped at `cap` times the smallest weight of the grade and scaled to mean 1 under the training
    distribution; a class that does not occur has weight 0. The paper only says "prevalence weighted"; cap and scale are
    this package's choice.

    Args:
        targets: (N, 29) distributions, NaN where missing.
        cap: largest ratio between two weights of one grade; 1 means equal weights.
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
    """L_cls = Σ_grades mean over knees of Σ_c w_c t_c (−log p_c); float32 scalar.

    This is Eq. 1 with its sign corrected. The mean of a grade is over the knees that have it.

    Args:
        logits: grade name → (B, classes).
        targets: (B, 29) distributions, NaN where missing.
        weights: (29,) class weights.
    """
    total = targets.new_zeros(())
    for target in TARGETS:
        labels = targets[:, target.one_hot]
        present = ~labels.isnan().any(1)
        losses = -(weights[target.one_hot] * labels.nan_to_num(0.0) * logits[target.name].log_softmax(1)).sum(1)
        total = total + (losses * present).sum() / present.sum().clamp(min=1)
    return total


def regression_loss(numbers: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Sum over grades of the mean squared error of the regression heads; float32 scalar.

    The auxiliary loss of Antony et al. (2017), for seven grades. The truth of a soft label is its mean grade; missing
    labels are left out.

    Args:
        numbers: grade name → (B,) predicted grades.
        targets: (B, 29) distributions, NaN where missing.
    """
    total = targets.new_zeros(())
    for target in TARGETS:
        grades = torch.arange(target.classes, device=targets.device, dtype=targets.dtype)
        labels = targets[:, target.one_hot] @ grades
        present = ~labels.isnan()
        errors = (numbers[target.name] - labels.nan_to_num(0.0)).square()
        total = total + (errors * present).sum() / present.sum().clamp(min=1)
    return total


MIN_TUPLES = 50


class SemiSupervisedLoss(nn.Module):
    """The loss of a grader's run (Eq. 5); it has no trainable parameters.

    Args:
        loss: section of the recipe.
        targets: (N, 29) distributions of the labelled training knees, NaN where missing. Class weights are computed
            from them, and so are the grade tuples for coherence if `loss.grades_from` is "labelled".
        seed: of the mixture's noise and initialisation.

    Raises:
        RecipeError: `loss.grades_from` is "labelled", and too few knees have all seven grades.
    """

    class_weights: Tensor

    def __init__(self, loss: Loss, targets: NDArray[np.float32], seed: int) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("class_weights", class_weights(torch.from_numpy(targets), loss.prevalence_cap))
        counts = grade_tuple_counts()
        if loss.coherence and loss.grades_from == "labelled":
            counts = tuple_counts(targets)
            if sum(counts.values()) < MIN_TUPLES:
                raise RecipeError(
                    f"{sum(counts.values())} labelled knees have all seven grades, but coherence needs {MIN_TUPLES}; "
                    "set loss.grades_from=packaged to use the packaged counts instead."
                )
        self.mixture = fit_mixture(counts, components=loss.components, sigma=loss.sigma, seed=seed, floor=loss.floor)
        self.joint = JointTable(smoothed_table(counts))

    def forward(self, output: GradeLogits, targets: Tensor, coherent: bool) -> dict[str, Tensor]:
        """Float32 scalars by name: `loss`, and its parts.

        Args:
            output: of the network, labelled and unlabelled knees together.
            targets: (B, 29) distributions, NaN where missing and for unlabelled knees.
            coherent: whether the coherence losses are included; they are not during the warm-up.
        """
        settings = self.loss
        parts = {"cls": classification_loss(output.logits, targets, self.class_weights)}
        total = settings.lambda_cls * parts["cls"]
        if settings.lambda_mse:
            parts["mse"] = regression_loss(output.numbers, targets)
            total = total + settings.lambda_mse * parts["mse"]
        if coherent:
            vector = concatenate_probabilities(output.logits)
            if settings.lambda_gmm:
                g = self.mixture.log_probability(vector)
                parts["g"], parts["gmm"] = g.mean(), incoherence_loss(g, settings.tau).mean()
                total = total + settings.lambda_gmm * parts["gmm"]
            if settings.lambda_joint:
                parts["joint"] = -self.joint.log_expectation(vector).mean()
                total = total + settings.lambda_joint * parts["joint"]
        return {"loss": total, **parts}
