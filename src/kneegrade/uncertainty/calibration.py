r"""Calibration: a temperature and a bias per class for each grade, applied to the logits.

The calibrated probabilities of grade q are softmax(z_q / T_q + b_q). A temperature alone cannot undo the shift in class
frequencies that class-weighted training leaves; a bias per class can.

`fit_calibration` fits temperatures and biases on their own. `fit_calibration_through_decoder` fits them together with
the joint decoder (`kneegrade.uncertainty.joint_decoding`). The decoder multiplies the seven calibrated distributions by
a joint distribution, so distributions that were calibrated before decoding are no longer calibrated after it. Here
temperature and bias of every grade minimise the negative log-likelihood of the labels under the *decoded* marginals of

    p(y | image) ∝ Π_q softmax(z_q / T_q + b_q)(y_q) · p(y)^b.

The prior's exponent a is 0 here, because a bias per class already includes it (π_q^−a is a bias).
"""

from collections.abc import Collection, Mapping
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kneegrade.coherence import concatenate_probabilities
from kneegrade.schema import TARGETS
from kneegrade.uncertainty.joint_decoding import CoherentDecoder

RIDGE = 1e-3  # penalty on squared parameters: keeps the bias of a class without labels finite
ITERATIONS = 20  # of L-BFGS, when the calibration is fitted through the decoder


class Calibration(nn.Module):
    """Temperature and biases of each grade: softmax(logits / T + b). A new instance is the plain softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.ParameterDict({t.name: nn.Parameter(torch.zeros(())) for t in TARGETS})
        self.bias = nn.ParameterDict({t.name: nn.Parameter(torch.zeros(t.classes)) for t in TARGETS})

    def forward(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Calibrated logits, whose softmax are the probabilities.

        Args:
            logits: grade name → (B, classes).
        """
        return {t.name: logits[t.name] / self.log_temperature[t.name].exp() + self.bias[t.name] for t in TARGETS}


def negative_log_likelihood(logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """−Σ_c t_c log p_c, averaged over knees and summed over grades. Missing grades are ignored.

    Args:
        logits: grade name → (M, classes).
        targets: (M, 29) label distributions, NaN where a grade is missing.
    """
    total = targets.new_zeros(())
    for target in TARGETS:
        labels = targets[:, target.one_hot]
        present = ~labels.isnan().any(1)
        if present.any():
            total = total - (labels[present] * logits[target.name][present].log_softmax(1)).sum(1).mean()
    return total


def fit_calibration(logits: Mapping[str, Tensor], targets: Tensor, ridge: float = RIDGE) -> Calibration:
    """The temperatures and biases that minimise the negative log-likelihood of `targets`.

    Args:
        logits: grade name → (M, classes), of knees that the network was not trained on.
        targets: (M, 29) label distributions, NaN where a grade is missing.
        ridge: penalty on squared parameters.
    """
    calibration = Calibration()
    optimiser = torch.optim.LBFGS(calibration.parameters(), lr=0.5, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = negative_log_likelihood(calibration(logits), targets)
        loss = loss + ridge * sum(p.square().sum() for p in calibration.parameters())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return calibration.requires_grad_(False)


def fit_calibration_through_decoder(
    logits: Mapping[str, Tensor], targets: NDArray[np.float32], decoder: CoherentDecoder, start: Calibration
) -> tuple[Calibration, float]:
    """The calibration that minimises the negative log-likelihood of the decoded labels, and the value reached.

    Args:
        logits: grade name → (M, classes).
        targets: (M, 29) label distributions, NaN where missing. Grades without any label keep `start`'s parameters.
        decoder: its joint exponent and table are used; its prior exponent is ignored.
        start: initial parameters.
    """
    joint = torch.from_numpy(decoder.table**decoder.joint_exponent).float()
    labels = torch.from_numpy(targets)
    calibration = deepcopy(start).requires_grad_(False)
    labelled = [t.name for t in TARGETS if bool(labels[:, t.one_hot].isfinite().any())]
    parameters = [p for name in labelled for p in (calibration.log_temperature[name], calibration.bias[name])]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def loss() -> Tensor:
        log_evidence = concatenate_probabilities(calibration(logits)).clamp(min=1e-12).log()  # (M, 29)
        marginals = decoded_marginals(log_evidence, joint)
        decoded = {t.name: marginals[:, t.one_hot].clamp(min=1e-12).log() for t in TARGETS}
        return negative_log_likelihood(decoded, labels)

    optimiser = torch.optim.LBFGS(parameters, lr=0.5, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        total: Tensor = loss() + RIDGE * torch.stack([p.square().sum() for p in parameters]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    final_loss = float(loss().detach())
    return calibration.requires_grad_(False), final_loss


def decoded_marginals(log_evidence: Tensor, joint: Tensor) -> Tensor:
    """(M, 29) marginals of the decoded joint distribution, differentiable with respect to the evidence.

    They are the gradient of log Z with respect to the log evidence, Z = Σ_y Π_q e_q(y_q) · joint(y). This takes one
    contraction per grade instead of a row of 20,480 tuple scores per knee.

    Args:
        log_evidence: (M, 29) logarithms of the seven distributions. It must require a gradient or depend on parameters
            that do.
        joint: (5, 4, 4, 4, 4, 4, 4) joint weights, of the same dtype.
    """
    parts = [log_evidence[:, target.one_hot] for target in TARGETS]
    first, *others = ((part - part.detach().amax(1, keepdim=True)).exp() for part in parts)
    partial = first @ joint.reshape(joint.shape[0], -1)  # (M, product of the remaining classes)
    for evidence in others:
        partial = (evidence.unsqueeze(1) @ partial.reshape(len(evidence), evidence.shape[1], -1)).squeeze(1)
    (marginals,) = torch.autograd.grad(partial.log().sum(), log_evidence, create_graph=True)
    return marginals


def expected_agreement(grades: NDArray[np.int64], probabilities: NDArray[np.floating], names: Collection[str]) -> float:
    """Accuracy plus quadratic kappa that calibrated probabilities expect: mean of KL's and of the OARSI grades' mean.

    The truth of a knee is its distribution instead of one reading, so a choice by this score depends less on the
    chance of a few hundred readings than one by the agreement with them.

    Args:
        grades: (M, 7) predicted grades.
        probabilities: (M, 29) calibrated distributions.
        names: grades that count; at least one.
    """
    score_of = {}
    for index, target in enumerate(TARGETS):
        if target.name in names:
            shares = np.zeros((target.classes, target.classes))  # predicted, true
            np.add.at(shares, grades[:, index], probabilities[:, target.one_hot] / len(grades))
            scale = np.arange(target.classes)
            cost = np.square(scale[:, None] - scale)
            by_chance = (np.outer(shares.sum(1), shares.sum(0)) * cost).sum()
            kappa = 1 - (shares * cost).sum() / by_chance if by_chance > 0 else 0.0
            score_of[target.name] = float(np.trace(shares) + kappa)
    kl, oarsi = score_of.pop("kl", None), list(score_of.values())
    parts = [value for value in (kl, sum(oarsi) / len(oarsi) if oarsi else None) if value is not None]
    return float(np.mean(parts)) if parts else 0.0
