"""Synthetic knee radiographs with known truth: grades, outline, joint space, from a seed and an index alone.

`sample_knee` draws a knee, `render_roi` pictures it alone, `render_film` a whole film, `write_film` and `write_cohort`
put films on disk. Grades and shapes follow aggregates of the Osteoarthritis Initiative; no picture of a person is used.
"""

from kneegrade.phantom.cohort import write_cohort
from kneegrade.phantom.dicom import DicomOptions, write_film
from kneegrade.phantom.film import PhantomFilm, render_film
from kneegrade.phantom.grades import Prevalence
from kneegrade.phantom.knee import PhantomKnee, sample_knee
from kneegrade.phantom.roi import render_roi
from kneegrade.phantom.study import write_example_study

__all__ = [
    "DicomOptions",
    "PhantomFilm",
    "PhantomKnee",
    "Prevalence",
    "render_film",
    "render_roi",
    "sample_knee",
    "write_cohort",
    "write_example_study",
    "write_film",
]
