"""Studies' and users' own tables and films → one manifest of labelled knees.

A study's table is read into readings (one row per knee and visit), readings and films are joined, and the result is
a manifest with a train, validation and test split. `manifest` describes the format.
"""

from kneegrade.cohorts.build_manifest import cohort_summary, csv_manifest, most_manifest, oai_manifest, phantom_manifest
from kneegrade.cohorts.chen2018 import chen2018_folder, chen2018_manifest
from kneegrade.cohorts.fake_studies import FakeOptions, write_fake_most, write_fake_oai
from kneegrade.cohorts.film_manifests import manifest_from_landmarks
from kneegrade.cohorts.manifest import (
    check_manifest,
    has_landmarks,
    landmark_array,
    load_labels,
    load_manifest,
    rows_of_split,
    target_distributions,
)
from kneegrade.cohorts.readings import Counts
from kneegrade.cohorts.subject_pattern import subject_pattern

__all__ = [
    "Counts",
    "FakeOptions",
    "check_manifest",
    "chen2018_folder",
    "chen2018_manifest",
    "cohort_summary",
    "csv_manifest",
    "has_landmarks",
    "landmark_array",
    "load_labels",
    "load_manifest",
    "manifest_from_landmarks",
    "most_manifest",
    "oai_manifest",
    "phantom_manifest",
    "rows_of_split",
    "subject_pattern",
    "target_distributions",
    "write_fake_most",
    "write_fake_oai",
]
