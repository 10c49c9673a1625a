"""Metrics with intervals, comparisons of runs, tables and figures."""

from kneegrade.evaluation.bootstrap import Comparison, SubjectBootstrap, as_json, compare, incoherent, interval, score
from kneegrade.evaluation.metrics import agreement
from kneegrade.evaluation.predictions import Predictions

__all__ = [
    "Comparison",
    "Predictions",
    "SubjectBootstrap",
    "agreement",
    "as_json",
    "compare",
    "incoherent",
    "interval",
    "score",
]
