"""Coherence of the seven grades: Gaussian mixture and loss (paper, section 2.2), exact joint table, rules, audit."""

from kneegrade.coherence.joint_table import JointTable, marginal, raked_table, smoothed_table
from kneegrade.coherence.label_audit import CoherenceAudit, Disagreement, audit_grades, confident_disagreement
from kneegrade.coherence.mixture import (
    GradeMixture,
    concatenate_probabilities,
    fit_mixture,
    incoherence_loss,
    most_probable_grades,
    one_hot,
    tuple_counts,
)
from kneegrade.coherence.rules import RULES, Rule, breaks_hard_rule, broken_rules, rule_findings

__all__ = [
    "RULES",
    "CoherenceAudit",
    "Disagreement",
    "GradeMixture",
    "JointTable",
    "Rule",
    "audit_grades",
    "breaks_hard_rule",
    "broken_rules",
    "concatenate_probabilities",
    "confident_disagreement",
    "fit_mixture",
    "incoherence_loss",
    "marginal",
    "most_probable_grades",
    "one_hot",
    "raked_table",
    "rule_findings",
    "smoothed_table",
    "tuple_counts",
]
