"""The objective of a run: L = λ_cls L_cls + λ_gmm L_gmm (paper, Eq. 5), and the switches that go past it."""

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
from kneegrade.learning.losses import class_weights, classification_loss, regression_loss
from kneegrade.learning.recipe import Loss
from kneegrade.network import GradeLogits
from kneegrade.schema import grade_tuple_counts

FEWEST_TUPLES = 50


class Objective(nn.Module):
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
