"""Logits → what can be claimed."""

from kneegrade.uncertainty.calibration import Calibration, fit_calibration, negative_log_likelihood
from kneegrade.uncertainty.conformal import ConformalSets, fit_sets
from kneegrade.uncertainty.implant_network import ImplantNetwork
from kneegrade.uncertainty.joint_decoding import CoherentDecoder
from kneegrade.uncertainty.postprocess import CalibratedGrades, Graded, Postprocessor, fit_postprocessor, tuned_claims
from kneegrade.uncertainty.quality_control import (
    OODFeatures,
    QualityControl,
    Split,
    fit_quality_control,
    joined,
    load_quality_control,
    ood_features_of,
)

__all__ = [
    "CalibratedGrades",
    "Calibration",
    "CoherentDecoder",
    "ConformalSets",
    "Graded",
    "ImplantNetwork",
    "OODFeatures",
    "Postprocessor",
    "QualityControl",
    "Split",
    "fit_calibration",
    "fit_postprocessor",
    "fit_quality_control",
    "fit_sets",
    "joined",
    "load_quality_control",
    "negative_log_likelihood",
    "ood_features_of",
    "tuned_claims",
]
