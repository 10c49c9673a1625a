"""Logits → what can be claimed."""

from kneegrade.uncertainty.calibration import Calibration, fit_calibration, negative_log_likelihood
from kneegrade.uncertainty.decoding import CoherentDecoder, fit_decoder

__all__ = ["Calibration", "CoherentDecoder", "fit_calibration", "fit_decoder", "negative_log_likelihood"]
