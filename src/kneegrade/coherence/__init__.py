"""What grades go together: the Gaussian mixture, the incoherence loss and the rules (paper, section 2.2)."""

from kneegrade.coherence.mixture import GradeMixture, concatenate_probabilities, fit_mixture, incoherence_loss, one_hot
from kneegrade.coherence.rules import RULES, Rule, rule_findings

__all__ = [
    "RULES",
    "GradeMixture",
    "Rule",
    "concatenate_probabilities",
    "fit_mixture",
    "incoherence_loss",
    "one_hot",
    "rule_findings",
]
