"""Comprehensive 3D SR of a graded film by TID 1500."""

from pydicom import Dataset

from kneegrade.clinical.clinical_film import ClinicalFilm


def structured_report(film: ClinicalFilm) -> Dataset:
    """The structured report of a film."""
    raise NotImplementedError
