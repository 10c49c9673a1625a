"""Calibrated probabilities: per grade a temperature and a bias on the logits.

A temperature alone cannot undo the tilt that class-weighted training leaves; a bias per class can.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kneegrade.schema import TARGETS

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
