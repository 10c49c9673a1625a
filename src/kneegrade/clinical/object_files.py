"""Files of derived objects: for each graded DICOM film one file per format, beside the reports.

`OBJECT_FORMATS` is the registry: a new format is a function from `ClinicalFilm` to bytes and an entry here. The
functions import what they need when they are called, because highdicom takes half a second.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kneegrade.clinical.clinical_film import ClinicalFilm, read_clinical_film
from kneegrade.clinical.job import Job
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.files import make_directory, replacing
from kneegrade.imaging import Source
from kneegrade.imaging.sources import unique_stem
from kneegrade.results import Finding, GradedRadiograph, Report


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


OBJECT_FORMATS: Final[Mapping[str, ObjectFormat]] = {
    "sr": ObjectFormat("dicom", "sr.dcm", _structured_report),
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
    """The derived objects of a film by format, or none and the reason.

    Args:
        film: its results.
        source: the file that was graded.
        job: what graded it.
        formats: of `OBJECT_FORMATS`.
    """
    try:
        clinical_film = read_clinical_film(film, source, job)
        return {name: OBJECT_FORMATS[name].content(clinical_film) for name in formats}, None
    except KneeGradeError as error:
        if error.code == "missing_package":
            raise
        return {}, Finding(error.code, NO_OBJECTS + error.message)
    except Exception as error:  # one film must never end a run of many; the text of the error may name the patient
        message = f"{NO_OBJECTS}An error in kneegrade ({type(error).__name__}) prevented it. Report it."
        return {}, Finding("internal", message)


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
