"""Logits → what can be claimed."""

from kneegrade.uncertainty.calibration import Calibration, fit_calibration, negative_log_likelihood
from kneegrade.uncertainty.claims import Claim, Claims, Graded, fit_claims, tuned_claims
from kneegrade.uncertainty.decoding import CoherentDecoder
from kneegrade.uncertainty.gate import Gate, Signs, Split, fit_gate, joined, load_gate, signs_of
from kneegrade.uncertainty.metal import MetalNetwork
from kneegrade.uncertainty.sets import ConformalSets, fit_sets

__all__ = [
    "Calibration",
    "Claim",
    "Claims",
    "CoherentDecoder",
    "ConformalSets",
    "Gate",
    "Graded",
    "MetalNetwork",
    "Signs",
    "Split",
    "fit_calibration",
    "fit_claims",
    "fit_gate",
    "fit_sets",
    "joined",
    "load_gate",
    "negative_log_likelihood",
    "signs_of",
    "tuned_claims",
]
