"""What grades go together: the Gaussian mixture and its loss (paper, section 2.2), the exact joint table, the rules."""

from kneegrade.coherence.joint import JointTable, independent, raked_table, smoothed_table
from kneegrade.coherence.mixture import (
    GradeMixture,
    concatenate_probabilities,
    fit_mixture,
    incoherence_loss,
    one_hot,
    tuple_counts,
)
from kneegrade.coherence.rules import RULES, Rule, rule_findings

__all__ = [
    "RULES",
    "GradeMixture",
    "JointTable",
    "Rule",
    "concatenate_probabilities",
    "fit_mixture",
    "incoherence_loss",
    "independent",
    "one_hot",
    "raked_table",
    "rule_findings",
    "smoothed_table",
    "tuple_counts",
]
