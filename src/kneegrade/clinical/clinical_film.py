"""`ClinicalFilm`: the input of every writer of derived objects."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kneegrade.clinical.film_header import FilmHeader, read_film_header
from kneegrade.clinical.job import Job
from kneegrade.errors import UnsupportedFileError
from kneegrade.imaging import Radiograph, Source, read_radiograph
from kneegrade.imaging.photometry import INVERTED
from kneegrade.results import Finding, GradedRadiograph


@dataclass(frozen=True, eq=False)
class ClinicalFilm:
    """A graded DICOM film with its header and its job.

    Attributes:
        film: its results, as in the report, with a warning if attributes of its header are left out.
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
        return read_as_graded(self.content, self.film) if self.decoded is None else self.decoded


def read_as_graded(content: Path | bytes, film: GradedRadiograph) -> Radiograph:
    """The radiograph in the polarity in which it was graded.

    Args:
        content: path or bytes of the film.
        film: its results, whose warnings state the polarity.

    Raises:
        KneeGradeError: the file cannot be read.
    """
    radiograph = read_radiograph(content)
    polarity = radiograph.polarity
    is_undecided = any(warning.code == "polarity_undecided" for warning in film.warnings)
    if polarity is None or (is_undecided and polarity.declared_by is None):  # then it was graded as the pixels suggest
        return radiograph
    return radiograph if polarity.inverted == was_inverted(film) else radiograph.in_other_polarity()


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
    if header.withheld:
        film = replace(film, warnings=(*film.warnings, _withheld(header)))
    return ClinicalFilm(film, header, job, content, radiograph)


def _withheld(header: FilmHeader) -> Finding:
    """The warning that names attributes, not their values, which may name the patient."""
    keywords = sorted(set(header.withheld))
    return Finding(
        "attributes_withheld",
        f"The DICOM and FHIR objects of this film lack {', '.join(keywords)}: the values in the film do not conform to "
        "DICOM or are too long. Correct the film in the archive.",
    )
