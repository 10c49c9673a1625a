r"""Calibration and coherent decoding tuned together.

Decoding multiplies seven calibrated distributions by what goes together, so distributions that were calibrated before
it are so no longer after it. Here temperature and bias of every grade minimise the negative log-likelihood of the
labels under the *decoded* marginals of

    p(y | image) ∝ Π_q softmax(z_q / T_q + b_q)(y_q) · p(y)^b.

A bias per class holds the prior's exponent a already (π_q^−a is a bias), so a = 0 here.

Calibrated probabilities: per grade a temperature and a bias on the logits.

A temperature alone cannot undo the tilt that class-weighted training leaves; a bias per class can.
"""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn

from kneegrade.coherence import concatenate_probabilities, most_probable_grades
from kneegrade.schema import TARGETS
from kneegrade.uncertainty.joint_decoding import CoherentDecoder

RIDGE = 1e-3  # penalty on squared parameters, so that a class that never occurs keeps a finite bias


class Calibration(nn.Module):
    """softmax(logits / T + b) per grade; starts as the plain softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.ParameterDict({t.name: nn.Parameter(torch.zeros(())) for t in TARGETS})
        self.bias = nn.ParameterDict({t.name: nn.Parameter(torch.zeros(t.classes)) for t in TARGETS})

    def forward(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Grade name → (B, classes) logits to calibrated logits (their softmax is the probability)."""
        return {t.name: logits[t.name] / self.log_temperature[t.name].exp() + self.bias[t.name] for t in TARGETS}


def fit_calibration(logits: Mapping[str, Tensor], targets: Tensor, ridge: float = RIDGE) -> Calibration:
    """The temperatures and biases that minimise the negative log-likelihood of `targets`.

    Args:
        logits: grade name → (M, classes), of knees that were not trained on.
        targets: (M, 29) distributions, NaN where a grade is missing.
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


def negative_log_likelihood(logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Mean over knees, summed over grades, of −Σ_c t_c log p_c; missing grades take no part."""
    total = targets.new_zeros(())
    for target in TARGETS:
        wanted = targets[:, target.one_hot]
        present = ~wanted.isnan().any(1)
        if present.any():
            total = total - (wanted[present] * logits[target.name][present].log_softmax(1)).sum(1).mean()
    return total


Array = NDArray[np.float64]

ITERATIONS = 20


def fit_calibration_through_decoder(
    logits: Mapping[str, Tensor], targets: NDArray[np.float32], decoder: CoherentDecoder, start: Calibration
) -> tuple[Calibration, float]:
    """The calibration that makes the labels likeliest after decoding, and their negative log-likelihood then.

    Args:
        logits: grade name → (M, classes).
        targets: (M, 29) distributions, NaN where missing; grades that no knee has keep `start`'s parameters.
        decoder: its joint exponent and table; the prior's exponent is left out.
        start: where to begin.
    """
    joint = torch.from_numpy(decoder.table**decoder.joint_exponent).float()
    wanted = torch.from_numpy(targets)
    calibration = deepcopy(start).requires_grad_(False)
    known = [t.name for t in TARGETS if bool(wanted[:, t.one_hot].isfinite().any())]
    learnt = [p for name in known for p in (calibration.log_temperature[name], calibration.bias[name])]
    for parameter in learnt:
        parameter.requires_grad_(True)

    def loss() -> Tensor:
        evidence = concatenate_probabilities(calibration(logits)).clamp(min=1e-12).log()  # (M, 29)
        marginals = decoded_marginals(evidence, joint)
        decoded = {t.name: marginals[:, t.one_hot].clamp(min=1e-12).log() for t in TARGETS}
        return negative_log_likelihood(decoded, wanted)

    optimiser = torch.optim.LBFGS(learnt, lr=0.5, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        total: Tensor = loss() + RIDGE * torch.stack([p.square().sum() for p in learnt]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    reached = float(loss().detach())
    return calibration.requires_grad_(False), reached


def decoded_marginals(evidence: Tensor, joint: Tensor) -> Tensor:
    """(M, 29) marginals under joint weights (5, 4, 4, 4, 4, 4, 4) of knees with this evidence; differentiable.

    The gradient of log Z by the log evidence, Z = Σ_y Π_q e_q(y_q) · joint(y), which takes one contraction per grade
    and not a row of 20,480 scores per knee.

    Args:
        evidence: (M, 29) logarithms, of a graph that has parameters.
        joint: float32.
    """
    parts = [evidence[:, target.one_hot] for target in TARGETS]
    first, *others = ((part - part.detach().amax(1, keepdim=True)).exp() for part in parts)
    rest = first @ joint.reshape(joint.shape[0], -1)
    for own in others:
        rest = (own.unsqueeze(1) @ rest.reshape(len(own), own.shape[1], -1)).squeeze(1)
    (marginals,) = torch.autograd.grad(rest.log().sum(), evidence, create_graph=True)
    return marginals


def worth(grades: NDArray[np.int64], targets: NDArray[np.floating]) -> float:
    """Accuracy plus quadratic kappa against the likeliest labels: half KL's, half the OARSI grades' mean.

    Args:
        grades: (M, 7) that would be given.
        targets: (M, 29), NaN where missing; a grade that no knee has takes no part.
    """
    truth, own = most_probable_grades(targets), {}
    for index, target in enumerate(TARGETS):
        known = truth[:, index] >= 0
        if known.any():
            right, said = truth[known, index], grades[known, index]
            with np.errstate(invalid="ignore"):
                kappa = cohen_kappa_score(right, said, weights="quadratic", labels=range(target.classes))
            own[target.name] = float((right == said).mean()) + (float(kappa) if np.isfinite(kappa) else 0.0)
    kl, rest = own.pop("kl", None), list(own.values())
    parts = [value for value in (kl, sum(rest) / len(rest) if rest else None) if value is not None]
    return float(np.mean(parts)) if parts else 0.0
