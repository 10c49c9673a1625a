"""`ClinicalFilm`: the input of every writer of derived objects."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kneegrade.clinical.film_header import FilmHeader, read_film_header
from kneegrade.clinical.job import Job
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Radiograph, Source, read_radiograph
from kneegrade.imaging.photometry import INVERTED
from kneegrade.results import GradedRadiograph


@dataclass(frozen=True, eq=False)
class ClinicalFilm:
    """A graded DICOM film with its header and its job.

    Attributes:
        film: its results, as in the report.
        header: of the film; kept out of logs.
        job: what graded it, and when.
        content: path or bytes of the film.
        decoded: the film as it was graded, or None.
    """

    film: GradedRadiograph
    header: FilmHeader
    job: Job
    content: Path | bytes = field(repr=False)
    decoded: Radiograph | None = field(default=None, repr=False)

    @cached_property
    def radiograph(self) -> Radiograph:
        """The film with bone bright; decoded again if it was not handed on from grading."""
        if self.decoded is not None:
            return self.decoded
        radiograph = read_radiograph(self.content)
        is_inverted = radiograph.polarity is not None and radiograph.polarity.inverted
        return radiograph if is_inverted == was_inverted(self.film) else radiograph.in_other_polarity()


def was_inverted(film: GradedRadiograph) -> bool:
    """True if the film was graded as a negative that its file does not declare."""
    return any(warning.code == INVERTED.code for warning in film.warnings)


def read_clinical_film(
    film: GradedRadiograph, source: "str | Path | bytes | Source", job: Job, radiograph: Radiograph | None = None
) -> ClinicalFilm:
    """The graded film with the header of its file.

    Args:
        film: its results.
        source: the file that was graded.
        job: what graded it.
        radiograph: the film as it was graded; None: it is decoded again if a picture needs it.

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
    return ClinicalFilm(film, header, job, content, radiograph)
