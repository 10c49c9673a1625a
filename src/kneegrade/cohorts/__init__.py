"""Labelled tables → one manifest."""

from kneegrade.cohorts.chen2018 import chen2018_folder, chen2018_manifest
from kneegrade.cohorts.fake_most import write_fake_most
from kneegrade.cohorts.fake_oai import FakeOptions, write_fake_oai
from kneegrade.cohorts.labels import load_labels
from kneegrade.cohorts.manifest import check_manifest, landmark_array, load_manifest, target_distributions
from kneegrade.cohorts.marked import marked_manifest
from kneegrade.cohorts.readings import Counts
from kneegrade.cohorts.studies import csv_manifest, most_manifest, oai_manifest, phantom_manifest
from kneegrade.cohorts.summary import cohort_summary

__all__ = [
    "Counts",
    "FakeOptions",
    "check_manifest",
    "chen2018_folder",
    "chen2018_manifest",
    "cohort_summary",
    "csv_manifest",
    "landmark_array",
    "load_labels",
    "load_manifest",
    "marked_manifest",
    "most_manifest",
    "oai_manifest",
    "phantom_manifest",
    "target_distributions",
    "write_fake_most",
    "write_fake_oai",
]
