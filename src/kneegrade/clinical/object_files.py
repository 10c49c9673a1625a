"""Files of derived objects: for each graded DICOM film one file per format, beside the reports.

`OBJECT_FORMATS` is the registry: a new format is a function from `ClinicalFilm` to bytes and an entry here. The
functions import what they need when they are called, because highdicom takes half a second.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from kneegrade.clinical.clinical_film import ClinicalFilm, read_clinical_film
from kneegrade.clinical.job import Job
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.files import make_directory, replacing
from kneegrade.imaging import Source
from kneegrade.imaging.sources import unique_stem
from kneegrade.results import Finding, GradedRadiograph, Report

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


@dataclass(frozen=True)
class WrittenObjects:
    """What `write_objects` wrote.

    Attributes:
        report: the report, in which each film without objects has a warning that says why.
        paths: of the files, in the order of films and formats.
        skipped: the films without objects, by name in the report, and the reasons; files that could not be graded are
            left out.
    """

    report: Report
    paths: tuple[Path, ...]
    skipped: tuple[tuple[str, Finding], ...]


def write_objects(
    report: Report, sources: Sequence[Source], directory: Path, formats: Iterable[str], job: Job
) -> WrittenObjects:
    """The files of the derived objects of all films of a report.

    A film from which no object can be derived (a plain picture, a film without UIDs, a file that cannot be read) gets
    none; a warning in the returned report says why.

    Args:
        report: the results.
        sources: the films, in the order of `report.radiographs`.
        directory: the output folder; objects go into its folder `dicom` or `fhir`.
        formats: of `OBJECT_FORMATS`.
        job: what graded them, and when.

    Raises:
        UsageError: a format is unknown, a package is missing, or a file cannot be written.
    """
    wanted = checked_formats(formats)
    radiographs, paths, stems = list[GradedRadiograph](), list[Path](), set[str]()
    skipped = list[tuple[str, Finding]]()
    longest = max((len(f".{OBJECT_FORMATS[name].ending}") for name in wanted), default=0)
    for film, source in zip(report.radiographs, sources, strict=True):
        stem = unique_stem(film.source, stems, longest)
        contents, reason = ({}, None) if film.failed else film_objects(film, source, job, wanted)
        for name, content in contents.items():
            path = directory / OBJECT_FORMATS[name].folder / f"{stem}.{OBJECT_FORMATS[name].ending}"
            make_directory(path.parent)
            with replacing(path, "wb") as stream:
                stream.write(content)
            paths.append(path)
        if reason is not None:
            skipped.append((film.source, reason))
        radiographs.append(film if reason is None else replace(film, warnings=(*film.warnings, reason)))
    return WrittenObjects(replace(report, radiographs=tuple(radiographs)), tuple(paths), tuple(skipped))


def film_objects(
    film: GradedRadiograph, source: "str | Path | bytes | Source", job: Job, formats: Iterable[str]
) -> tuple[dict[str, bytes], Finding | None]:
    """The derived objects of a film by format, and the reason why one or all of them are missing, or None.

    Args:
        film: its results.
        source: the file that was graded.
        job: what graded it.
        formats: of `OBJECT_FORMATS`.
    """
    clinical_film, reason = _attempt(partial(read_clinical_film, film, source, job), NO_OBJECTS)
    contents = dict[str, bytes]()
    if clinical_film is None:
        return contents, reason
    for name in formats:
        make = partial(OBJECT_FORMATS[name].content, clinical_film)
        content, problem = _attempt(make, f"No {name} object was written for this film. ")
        if content is not None:
            contents[name] = content
        reason = reason or problem
    return contents, reason


def _attempt(make: Callable[[], T], consequence: str) -> tuple[T | None, Finding | None]:
    """The result of `make`, or None and the reason: one film must never end a run of many."""
    try:
        return make(), None
    except KneeGradeError as error:
        if error.code == "missing_package":
            raise
        return None, Finding(error.code, consequence + error.message)
    except Exception as error:  # the text of the error may name the patient
        message = f"{consequence}An error in kneegrade ({type(error).__name__}) prevented it. Report it."
        return None, Finding("internal", message)


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
