"""Synthetic knee radiographs with known truth: grades, landmarks and joint space, reproducible from (seed, index).

`sample_knee` draws one knee. `render_rois` renders a batch of single knees on any device, `render_film` a whole film.
`write_film` and `write_cohort` write films to disk. Grades and shapes follow aggregate statistics of the
Osteoarthritis Initiative; no patient's image is used.
"""

from kneegrade.phantom.film import FilmOptions, PhantomFilm, compose_film, render_film
from kneegrade.phantom.film_dicom import DicomOptions, write_example_study, write_film
from kneegrade.phantom.phantom_cohort import Cohort, write_cohort
from kneegrade.phantom.phantom_knee import PhantomKnee, sample_knee
from kneegrade.phantom.prevalence import Prevalence, coherent_reading, reader_confusion, second_reading
from kneegrade.phantom.rois import render_roi, render_rois

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
