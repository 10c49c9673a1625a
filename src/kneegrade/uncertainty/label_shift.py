"""Prevalences of the grades at a site without labels, by expectation maximisation (Saerens et al. 2002).

If the films of a site look like those of the study grade by grade, and only the frequencies π of the grades differ
(label shift), then

    p_site(y | image) ∝ p_study(y | image) · π_site(y) / π_study(y).

EM finds the π_site with the highest likelihood of the site's films: π_site is replaced by the mean of p_site until it
no longer changes. Ten knees with the study's prevalences are added to the mean, so that no grade becomes impossible.
Where the reader's scale differs, or the images, the assumption is false and the result is worse than no correction.
`label_shift_weights` weighs the study's knees as if they had the site's prevalences, so that a two-sample test can show
whether more than the prevalences differs.

M. Saerens, P. Latinne and C. Decaestecker: Adjusting the outputs of a classifier to new a priori probabilities.
Neural Computation 14 (2002).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ITERATIONS = 1_000
TOLERANCE = 1e-6
LEAST_SHARE = 1e-6
ADDED_KNEES = 10.0


def em_prevalences(probabilities: NDArray[np.floating], reference: Array) -> Array:
    """(K,) prevalences at the site with the highest likelihood.

    Args:
        probabilities: (N, K) distributions of one grade for the site's knees, calibrated for `reference`.
        reference: (K,) prevalences in the calibration knees.

    Example:
        >>> certain = np.repeat(np.eye(2), [75, 15], axis=0)  # 90 knees, and 10 with the study's prevalences
        >>> em_prevalences(certain, np.array([0.5, 0.5])).round(3).tolist()
        [0.8, 0.2]
    """
    prior = np.maximum(np.asarray(reference, dtype=np.float64), LEAST_SHARE)
    found = prior / prior.sum()
    likelihood = np.asarray(probabilities, dtype=np.float64) / prior
    for _ in range(ITERATIONS):
        joint = likelihood * found
        expected = (joint / joint.sum(1, keepdims=True)).sum(0)
        previous, found = found, (expected + ADDED_KNEES * prior / prior.sum()) / (len(joint) + ADDED_KNEES)
        if np.abs(found - previous).max() < TOLERANCE:
            break
    return np.asarray(found)


def label_shift_weights(probabilities: NDArray[np.floating], reference: Array, site: Array) -> Array:
    """(N,) density ratios site / study of the study's knees, if only the prevalences of one grade differ.

    Args:
        probabilities: (N, K) distributions of the grade for the study's knees.
        reference: (K,) prevalences of the study.
        site: (K,) prevalences of the site.
    """
    return np.asarray(np.asarray(probabilities, dtype=np.float64) @ (site / np.maximum(reference, LEAST_SHARE)))
