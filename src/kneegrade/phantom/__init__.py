"""Synthetic knee radiographs with known truth: anatomy sampler, X-ray physics, films, cohorts."""

from kneegrade.phantom.film import PhantomFilm, render_film
from kneegrade.phantom.knee import PhantomKnee, sample_knee
from kneegrade.phantom.roi import render_roi

__all__ = ["PhantomFilm", "PhantomKnee", "render_film", "render_roi", "sample_knee"]
