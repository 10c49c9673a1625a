"""From logits to calibrated, coherent grades with prediction sets, and quality control of the knees.

`Postprocessor` combines the calibration, the joint decoder and the conformal prediction sets. `QualityControl` finds
unusual knees, and refuses knees with metal.
"""

from kneegrade.uncertainty.calibration import Calibration, fit_calibration, negative_log_likelihood
from kneegrade.uncertainty.conformal import ConformalSets, fit_sets
from kneegrade.uncertainty.implant_network import ImplantLimits, ImplantNetwork, load_implants, save_implants
from kneegrade.uncertainty.joint_decoding import CoherentDecoder
from kneegrade.uncertainty.label_counts import grades_with_enough_labels
from kneegrade.uncertainty.label_shift import em_prevalences, label_shift_weights
from kneegrade.uncertainty.ood_features import OODFeatures, concatenate_features, ood_features_of
from kneegrade.uncertainty.postprocess import CalibratedGrades, Postprocessor
from kneegrade.uncertainty.postprocessor_fit import CalibrationKnees, fit_postprocessor, tuned_postprocessor
from kneegrade.uncertainty.quality_control import (
    Population,
    QualityControl,
    fit_quality_control,
    load_quality_control,
    withholds_joint_space,
)
from kneegrade.uncertainty.site_maps import SiteMap, threshold_positions
from kneegrade.uncertainty.site_scale import SiteScale, cross_fitted_scale, fit_site_scale

__all__ = [
    "CalibratedGrades",
    "Calibration",
    "CalibrationKnees",
    "CoherentDecoder",
    "ConformalSets",
    "ImplantLimits",
    "ImplantNetwork",
    "OODFeatures",
    "Population",
    "Postprocessor",
    "QualityControl",
    "SiteMap",
    "SiteScale",
    "concatenate_features",
    "cross_fitted_scale",
    "em_prevalences",
    "fit_calibration",
    "fit_postprocessor",
    "fit_quality_control",
    "fit_sets",
    "fit_site_scale",
    "grades_with_enough_labels",
    "label_shift_weights",
    "load_implants",
    "load_quality_control",
    "negative_log_likelihood",
    "ood_features_of",
    "save_implants",
    "threshold_positions",
    "tuned_postprocessor",
    "withholds_joint_space",
]
