"""`OODFeatures`: what quality control reads of a knee, from the network, the landmarks and the grey values."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kneegrade.anatomy import Knee
from kneegrade.anatomy.landmark_scheme import NUM_LANDMARKS
from kneegrade.imaging.film_quality import clipped_fraction, smoothness
from kneegrade.imaging.quantiles import quantiles
from kneegrade.network import visible_mean
from kneegrade.uncertainty.implant_network import implant_input

Array = NDArray[np.float64]

DECILES = np.linspace(0.1, 0.9, 9).tolist()
PHOTOMETRY_FEATURES = 15


@dataclass(frozen=True, eq=False)
class OODFeatures:
    """Features for quality control of N knees.

    Attributes:
        features: (N, F) from `network_features`.
        landmark_uncertainty: (N,) 1 − confidence of the landmarks.
        photometry: (N, 15) from `photometry_features`.
        implant_inputs: (N, 144, 144) from `implant_input`.
    """

    features: Array
    landmark_uncertainty: Array
    photometry: Array
    implant_inputs: NDArray[np.uint8]

    def part(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "OODFeatures":
        """The knees of an index array or a mask (N,)."""
        return OODFeatures(*(value[rows] for value in vars(self).values()))


def concatenate_features(parts: Sequence[OODFeatures]) -> OODFeatures:
    """The features of several sets of knees, in their order."""
    return OODFeatures(*(np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(OODFeatures)))


def ood_features_of(knees: Sequence[Knee], pooled: Tensor, visible: Tensor) -> OODFeatures:
    """Features for quality control of N knees.

    Args:
        knees: that the network has processed.
        pooled: (N, P, R) `GradeLogits.pooled` of the knees, on the CPU.
        visible: (N, 74) bool, landmarks that the network used, on the CPU.
    """
    landmark_uncertainty = np.array([1 - knee.landmark_confidence for knee in knees])
    photometry = np.stack([photometry_features(knee.roi, knee.inside) for knee in knees])
    implant_inputs = np.stack([implant_input(knee.roi, knee.inside) for knee in knees])
    return OODFeatures(network_features(pooled, visible), landmark_uncertainty, photometry, implant_inputs)


def network_features(pooled: Tensor, visible: Tensor) -> Array:
    """(N, F) mean and standard deviation of the pooled features over visible landmarks, and the global branch.

    Args:
        pooled: (N, P, R), P = 74 or, with a global branch, 75.
        visible: (N, 74) bool.
    """
    at_landmarks = pooled[:, :NUM_LANDMARKS]
    mean = visible_mean(at_landmarks, visible)
    deviation = visible_mean((at_landmarks - mean.unsqueeze(1)).square(), visible).sqrt()
    return np.asarray(torch.cat([mean, deviation, pooled[:, NUM_LANDMARKS:].flatten(1)], 1).double().cpu())


def photometry_features(roi: NDArray[np.float32], inside: NDArray[np.bool_]) -> Array:
    """(15,) statistics of the grey values on the film.

    Mean, standard deviation, clipped share, smoothness, nine deciles, and the 99 and 99.8 % quantiles of the absolute
    differences between horizontal neighbours.

    Args:
        roi: (S, S) crop in [0, 1], contrast stretched.
        inside: (S, S) bool, which pixels are on the film.
    """
    is_whole = inside.all()  # then the mask, which takes most of the time, is not needed
    film = roi[inside] if inside.any() and not is_whole else roi.ravel()
    steps = np.abs(np.diff(roi, axis=1))
    steps = steps.ravel() if is_whole else steps[inside[:, 1:] & inside[:, :-1]]
    steep = quantiles(steps, (0.99, 0.998)) if len(steps) else [0.0, 0.0]
    moments = [film.mean(), film.std(), clipped_fraction(film), smoothness(roi.astype(np.float64))]
    return np.concatenate([moments, quantiles(film[::5], DECILES), steep])
