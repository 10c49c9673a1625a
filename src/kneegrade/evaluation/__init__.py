"""Metrics with bootstrap intervals, paired comparisons of networks, drift between sites, and result tables."""

from kneegrade.evaluation.bootstrap import (
    Comparison,
    SubjectBootstrap,
    as_json,
    compare,
    incoherent_tuples,
    interval,
    score,
)
from kneegrade.evaluation.metrics import agreement
from kneegrade.evaluation.predictions import Predictions

__all__ = [
    "Comparison",
    "Predictions",
    "SubjectBootstrap",
    "agreement",
    "as_json",
    "compare",
    "incoherent_tuples",
    "interval",
    "score",
]
