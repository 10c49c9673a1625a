"""Synthetic knee radiographs with known truth: grades, outline, joint space, from a seed and an index alone.

`sample_knee` draws a knee, `render_rois` pictures many alone, on any device, `render_film` a whole film; `write_film`
and `write_cohort` put films on disk. Grades and shapes follow aggregates of the Osteoarthritis Initiative; no picture
of a person is used.
"""

from kneegrade.phantom.cohort import Cohort, write_cohort
from kneegrade.phantom.dicom import DicomOptions, write_film
from kneegrade.phantom.film import FilmOptions, PhantomFilm, compose_film, render_film
from kneegrade.phantom.grades import Prevalence
from kneegrade.phantom.knee import PhantomKnee, sample_knee
from kneegrade.phantom.readers import coherent_reading, reader_confusion, second_reading
from kneegrade.phantom.roi import render_roi, render_rois
from kneegrade.phantom.study import write_example_study

__all__ = [
    "Cohort",
    "DicomOptions",
    "FilmOptions",
    "PhantomFilm",
    "PhantomKnee",
    "Prevalence",
    "coherent_reading",
    "compose_film",
    "reader_confusion",
    "render_film",
    "render_roi",
    "render_rois",
    "sample_knee",
    "second_reading",
    "write_cohort",
    "write_example_study",
    "write_film",
]
