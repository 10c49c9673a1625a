"""Files of derived objects: for each graded DICOM film one file per format, beside the reports.

`OBJECT_FORMATS` is the registry: a new format is a function from `ClinicalFilm` to bytes and an entry here. The
functions import what they need when they are called, because highdicom takes half a second.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from kneegrade.clinical.clinical_film import ClinicalFilm, read_clinical_film
from kneegrade.clinical.job import Job
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.files import make_directory, replacing, short_name
from kneegrade.imaging import Radiograph, Source
from kneegrade.imaging.sources import unique_stem
from kneegrade.results import Finding, GradedRadiograph
from kneegrade.ungraded import internal_error

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectFormat:
    """A kind of derived object.

    Attributes:
        folder: in the output folder.
        ending: of the file's name, after the stem of the film and a dot.
        content: function from a film to the bytes of the file.
        needs_highdicom: whether the extra `dicom` is needed.
    """

    folder: str
    ending: str
    content: Callable[[ClinicalFilm], bytes]
    needs_highdicom: bool = True


def _structured_report(film: ClinicalFilm) -> bytes:
    from kneegrade.clinical.derived_object import file_bytes
    from kneegrade.clinical.sr import structured_report

    return file_bytes(structured_report(film))


def _presentation_state(film: ClinicalFilm) -> bytes:
    from kneegrade.clinical.derived_object import file_bytes
    from kneegrade.clinical.gsps import presentation_state

    return file_bytes(presentation_state(film))


def _secondary_capture(film: ClinicalFilm) -> bytes:
    from kneegrade.clinical.derived_object import file_bytes
    from kneegrade.clinical.secondary_capture import secondary_capture

    return file_bytes(secondary_capture(film))


def _fhir_bundle(film: ClinicalFilm) -> bytes:
    from kneegrade.clinical.fhir import bundle_bytes, fhir_bundle

    return bundle_bytes(fhir_bundle(film))


OBJECT_FORMATS: Final[Mapping[str, ObjectFormat]] = {
    "sr": ObjectFormat("dicom", "sr.dcm", _structured_report),
    "gsps": ObjectFormat("dicom", "gsps.dcm", _presentation_state),
    "sc": ObjectFormat("dicom", "sc.dcm", _secondary_capture),
    "fhir": ObjectFormat("fhir", "fhir.json", _fhir_bundle, needs_highdicom=False),
}

NO_OBJECTS: Final = "No DICOM or FHIR object was written for this film. "  # followed by the reason


class ObjectWriter:
    """Writes the objects of films, each as soon as the film is graded: `grader.grade_sources(sources, derive=writer)`.

    A film from which no object can be derived (a plain picture, a film without UIDs) gets none, and a warning that says
    why. A film that could not be read gets neither.

    Args:
        directory: the output folder; objects go into its folders `dicom` and `fhir`.
        formats: of `OBJECT_FORMATS`.
        job: what grades the films, and when.
        full_names: name the files of `film.dcm` `film.dcm.sr.dcm` instead of `film.sr.dcm`, so that a name does not
            depend on the films before it.

    Attributes:
        paths: of the files, in the order of films and formats.
        missing: films by name in the report, and what of their objects is missing and why.

    Raises:
        UsageError: a format is unknown, or a package is missing.
    """

    def __init__(self, directory: Path, formats: Iterable[str], job: Job, *, full_names: bool = False) -> None:
        self._directory, self._job, self._full_names = directory, job, full_names
        self._formats = checked_formats(formats)
        self._longest = max((len(f".{OBJECT_FORMATS[name].ending}") for name in self._formats), default=0)
        self._stems = set[str]()
        self.paths: list[Path] = []
        self.missing: list[tuple[str, Finding]] = []

    def __call__(
        self, source: Source, film: GradedRadiograph, radiograph: Radiograph | None = None
    ) -> GradedRadiograph:
        """The film, with a warning if an object is missing, after its objects were written.

        Args:
            source: the file that was graded.
            film: its results.
            radiograph: the film as it was graded; None: it is decoded again if a picture needs it.

        Raises:
            UsageError: a file cannot be written.
        """
        stem = self._stem(film.source)
        if film.failed:
            return film
        contents, findings = film_objects(film, source, self._job, self._formats, radiograph)
        for name, content in contents.items():
            path = self._directory / OBJECT_FORMATS[name].folder / f"{stem}.{OBJECT_FORMATS[name].ending}"
            make_directory(path.parent)
            with replacing(path, "wb") as stream:
                stream.write(content)
            self.paths.append(path)
        self.missing += [(film.source, finding) for finding in findings]
        return replace(film, warnings=(*film.warnings, *findings))

    def _stem(self, name: str) -> str:
        return short_name(name, self._longest) if self._full_names else unique_stem(name, self._stems, self._longest)


def film_objects(
    film: GradedRadiograph, source: "str | Path | bytes | Source", job: Job, formats: Iterable[str],
    radiograph: Radiograph | None = None,
) -> tuple[dict[str, bytes], tuple[Finding, ...]]:  # fmt: skip
    """The derived objects of a film by format, and what of them is missing and why.

    Args:
        film: its results.
        source: the file that was graded.
        job: what graded it.
        formats: of `OBJECT_FORMATS`.
        radiograph: the film as it was graded; None: it is decoded again if a picture needs it.
    """
    clinical_film, reason = _attempt(partial(read_clinical_film, film, source, job, radiograph), NO_OBJECTS)
    contents = dict[str, bytes]()
    if clinical_film is None:
        return contents, () if reason is None else (reason,)
    findings = list(clinical_film.film.warnings[len(film.warnings) :])
    for name in formats:
        make = partial(OBJECT_FORMATS[name].content, clinical_film)
        content, problem = _attempt(make, f"No {name} object was written for this film. ")
        if content is not None:
            contents[name] = content
        if problem is not None:
            findings.append(problem)
    return contents, tuple(findings)


def _attempt(make: Callable[[], T], consequence: str) -> tuple[T | None, Finding | None]:
    """The result of `make`, or None and the reason: one film must never end a run of many."""
    try:
        return make(), None
    except KneeGradeError as error:
        if error.code == "missing_package":
            raise
        return None, Finding(error.code, consequence + error.message)
    except Exception as error:
        return None, internal_error(error, consequence)


def checked_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats without duplicates.

    Raises:
        UsageError: a format is unknown, or highdicom is missing for it.
    """
    from kneegrade.clinical.derived_object import require_highdicom

    wanted = tuple(dict.fromkeys(formats))
    for name in wanted:
        if name not in OBJECT_FORMATS:
            raise UsageError(f"Object format {name!r} is unknown; choose from {', '.join(OBJECT_FORMATS)}.")
        if OBJECT_FORMATS[name].needs_highdicom:
            require_highdicom()
    return wanted
