"""Linear heads, one per grade, and the two ways of turning their numbers into a distribution over grades."""

from collections.abc import Mapping
from typing import cast

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kneegrade.network.plan import NetworkPlan
from kneegrade.schema import TARGETS


def grade_heads(plan: NetworkPlan, width: int) -> nn.ModuleDict:
    """Per grade a linear map from all the features that it reads to its logits: classes of them, one less if ordinal.

    Args:
        plan: the network's.
        width: features per place.
    """
    fewer = 1 if plan.heads == "ordinal" else 0
    return nn.ModuleDict({t.name: nn.Linear(len(plan.places(t)) * width, t.classes - fewer) for t in TARGETS})


def regression_heads(plan: NetworkPlan, width: int) -> nn.ModuleDict:
    """Per grade a linear map to one number, the grade itself (Antony et al. 2017)."""
    return nn.ModuleDict({t.name: nn.Linear(len(plan.places(t)) * width, 1) for t in TARGETS})


def read_heads(heads: nn.ModuleDict, pooled: Tensor, plan: NetworkPlan) -> dict[str, Tensor]:
    """(B, P, R) features → grade name → (B, outputs of its head) float32."""
    return {
        t.name: heads[t.name](rearrange(pooled[:, list(plan.places(t))], "b p c -> b (p c)")).float() for t in TARGETS
    }


def head_weights(heads: nn.ModuleDict, name: str, places: int) -> tuple[Tensor, Tensor]:
    """Weights (outputs, places, R) and bias (outputs,) of one head, float32."""
    head = cast(nn.Linear, heads[name])
    return rearrange(head.weight.float(), "k (p c) -> k p c", p=places), head.bias.float()


def ordinal_log_probabilities(conditional: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Log-probabilities of the grades from conditional logits; their softmax is the distribution itself.

    z_k is the logit of "above k, given above k − 1": log P(y = k) = Σ_{j<k} log σ(z_j) + log σ(−z_k), the last term
    absent for the highest grade. Cross entropy with them is the loss of CORN (Shi, Cao and Raschka 2021).

    Args:
        conditional: grade name → (B, classes − 1).

    Example:
        >>> import torch
        >>> z = {"kl": torch.zeros(1, 4)}
        >>> ordinal_log_probabilities(z)["kl"].exp().tolist()
        [[0.5, 0.25, 0.125, 0.0625, 0.0625]]
    """
    result = {}
    for name, z in conditional.items():
        above = functional.pad(functional.logsigmoid(z).cumsum(1), (1, 0))  # log P(y >= k), k = 0 … K - 1
        stops = functional.pad(functional.logsigmoid(-z), (0, 1))
        result[name] = above + stops
    return result
