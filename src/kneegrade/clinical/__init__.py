"""Results for a hospital's archive: DICOM objects and FHIR resources derived from a graded film.

`ObjectWriter` writes the files of a run; `film_objects` gives the bytes for one film; `read_sr` reads the results back
from a structured report. highdicom (extra `dicom`) is imported by the functions that need it, so that importing this
package stays cheap.
"""

from kneegrade.clinical.clinical_film import ClinicalFilm, read_clinical_film
from kneegrade.clinical.film_header import FilmHeader, read_film_header
from kneegrade.clinical.job import Job, options_of
from kneegrade.clinical.object_files import OBJECT_FORMATS, ObjectWriter, film_objects
from kneegrade.clinical.sr_reader import read_sr

__all__ = [
    "OBJECT_FORMATS",
    "ClinicalFilm",
    "FilmHeader",
    "Job",
    "ObjectWriter",
    "film_objects",
    "options_of",
    "read_clinical_film",
    "read_film_header",
    "read_sr",
]
