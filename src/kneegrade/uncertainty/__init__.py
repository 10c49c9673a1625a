"""Logits → what can be claimed."""

from kneegrade.uncertainty.calibration import Calibration, fit_calibration, negative_log_likelihood

__all__ = ["Calibration", "fit_calibration", "negative_log_likelihood"]
