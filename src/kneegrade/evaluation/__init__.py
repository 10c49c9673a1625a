"""Metrics with intervals, comparisons of runs, tables and figures."""

from kneegrade.evaluation.comparison import Comparison, compare
from kneegrade.evaluation.metrics import agreement
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.scores import SubjectBootstrap, as_json, incoherent, interval, score

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
