"""`ClinicalFilm`: the input of every writer of derived objects."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kneegrade.clinical.film_header import FilmHeader, read_film_header
from kneegrade.clinical.job import Job
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Radiograph, Source, read_radiograph
from kneegrade.results import GradedRadiograph


@dataclass(frozen=True, eq=False)
class ClinicalFilm:
    """A graded DICOM film with its header and its job.

    Attributes:
        film: its results, as in the report.
        header: of the film; kept out of logs.
        job: what graded it, and when.
        content: path or bytes of the film.
    """

    film: GradedRadiograph
    header: FilmHeader
    job: Job
    content: Path | bytes = field(repr=False)

    @cached_property
    def radiograph(self) -> Radiograph:
        """The film with bone bright, decoded again at the first use: pixels of films are not kept after grading."""
        return read_radiograph(self.content)


def read_clinical_film(film: GradedRadiograph, source: "str | Path | bytes | Source", job: Job) -> ClinicalFilm:
    """The graded film with the header of its file.

    Args:
        film: its results.
        source: the file that was graded.
        job: what graded it.

    Raises:
        UnsupportedFileError: no object can be derived: the file is no DICOM file (`not_dicom`), names no study
            (`no_identity`), or is not the file that was graded (`file_changed`).
        KneeGradeError: the file cannot be read.
    """
    content = source.open() if isinstance(source, Source) else Path(source) if isinstance(source, str) else source
    header = read_film_header(content)
    if film.sha256 is not None and film.sha256 != header.file_sha256:
        raise UnsupportedFileError(
            "The file changed after it was graded, so no object was derived from it. Grade it again.",
            code="file_changed",
        )
    return ClinicalFilm(film, header, job, content)
