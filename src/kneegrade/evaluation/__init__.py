"""Metrics of grading."""

from kneegrade.evaluation.metrics import agreement

__all__ = ["agreement"]
