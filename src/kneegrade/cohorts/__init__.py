"""Labelled tables → one manifest."""

from kneegrade.cohorts.chen2018 import chen2018_manifest
from kneegrade.cohorts.manifest import check_manifest, landmark_array, load_manifest, target_distributions
from kneegrade.cohorts.marked import marked_manifest

__all__ = [
    "check_manifest",
    "chen2018_manifest",
    "landmark_array",
    "load_manifest",
    "marked_manifest",
    "target_distributions",
]
