"""Films and results without the patient, for a colleague or a public report of an error.

Each film is written again without its patient (`shared_film`). Then the shared films are graded like any others, so
that results come from nothing but what is shared, and whoever receives the films can repeat them.
"""

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from kneegrade.clinical.clinical_film import read_as_graded
from kneegrade.clinical.film_header import FilmHeader, read_film_header
from kneegrade.clinical.job import Job
from kneegrade.clinical.object_files import OBJECT_FORMATS, ObjectWriter
from kneegrade.clinical.pseudonyms import Pseudonyms
from kneegrade.clinical.shared_film import SharedFile, shared_dicom, shared_picture, shared_pixels
from kneegrade.errors import KneeGradeError
from kneegrade.files import make_directory, replacing
from kneegrade.grader import Grader
from kneegrade.imaging import Radiograph, Source
from kneegrade.progress import Progress
from kneegrade.reporting import FORMATS, write_report
from kneegrade.results import Finding, GradedRadiograph, Report
from kneegrade.ungraded import internal_error

FILMS: Final = "films"  # folder of the shared films
MOMENT: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # of all objects: the day could be that of the visit
NO_HEADER: Final = frozenset({"not_dicom", "no_identity"})
NOT_SHARED: Final = "The film could not be shared. "
DUPLICATE: Final = Finding("duplicate", "Another film of this run has the same SOP Instance UID or content.")


@dataclass(frozen=True)
class SharedFilm:
    """What became of a film.

    Attributes:
        number: of the film in the input, from 1.
        source: its name in the input, which may name the patient; not written anywhere.
        path: of the shared film, or None.
        is_masked: whether the pixels outside the knees were blanked.
        reason: why it was not shared, or None.
        changes: grades that differ between the film and the shared film, such as "R kl 1 -> 2".
    """

    number: int
    source: str
    path: Path | None = None
    is_masked: bool = True
    reason: Finding | None = None
    changes: tuple[str, ...] = ()


def share(
    sources: Sequence[Source], directory: Path, grader: Grader, pseudonyms: Pseudonyms, *,
    formats: Iterable[str] = (*FORMATS, *OBJECT_FORMATS), whole_film: bool = False, progress: Progress | None = None,
) -> list[SharedFilm]:  # fmt: skip
    """What became of each film, after the shared films and their results were written to `directory`.

    Args:
        sources: from `kneegrade.imaging.find_sources`.
        directory: folder for the shared films (in its folder `films`) and the results, in the layout of
            `kneegrade grade`.
        grader: grades the films, and the shared films.
        pseudonyms: for patients, films and UIDs.
        formats: of the results, from `reporting.FORMATS` and `OBJECT_FORMATS`.
        whole_film: keep the pixels outside the knees of films that declare no burned-in text.
        progress: called after each film.

    Raises:
        UsageError: a format is unknown, a package is missing, or a file cannot be written.
    """
    make_directory(directory / FILMS)
    films, taken = list[SharedFilm](), set[str]()

    def write(source: Source, original: GradedRadiograph, radiograph: Radiograph | None) -> GradedRadiograph:
        make = partial(share_film, source, original, pseudonyms, whole_film=whole_film, radiograph=radiograph)
        films.append(_share_film(len(films) + 1, original, make, directory / FILMS, taken))
        return original

    originals = grader.grade_sources(sources, progress=progress, derive=write).radiographs
    shared_sources = [Source(film.path.name, film.path) for film in films if film.path is not None]
    report = _grade_shared(shared_sources, directory, tuple(formats), grader)
    graded = iter(report.radiographs)
    return [
        film if film.path is None else replace(film, changes=_changes(original, next(graded)))
        for film, original in zip(films, originals, strict=True)
    ]


def _share_film(
    number: int, original: GradedRadiograph, make: Callable[[], SharedFile], directory: Path, taken: set[str]
) -> SharedFilm:
    """The film after its shared copy was written, or the reason why there is none."""
    name = original.source
    try:
        if original.failed and original.reason is not None:
            raise KneeGradeError(original.reason.message, original.reason.code)
        shared = make()
    except KneeGradeError as error:
        return SharedFilm(number, name, reason=Finding(error.code, error.message))
    except Exception as error:
        return SharedFilm(number, name, reason=internal_error(error, NOT_SHARED))
    path = directory / shared.name
    if path.name in taken:
        return SharedFilm(number, name, reason=DUPLICATE)
    taken.add(path.name)
    with replacing(path, "wb") as stream:
        stream.write(shared.content)
    return SharedFilm(number, name, path, shared.is_masked)


def share_film(
    source: Source, graded: GradedRadiograph, pseudonyms: Pseudonyms, *, whole_film: bool = False,
    radiograph: Radiograph | None = None,
) -> SharedFile:  # fmt: skip
    """A film without its patient: DICOM, or PNG for a plain picture and for a DICOM film without UIDs.

    Args:
        source: the film.
        graded: its results, which state where the knees are.
        pseudonyms: for the patient, the film and its UIDs.
        whole_film: keep the pixels outside the knees if the film declares that no text is burned in.
        radiograph: the film as it was graded; None: it is decoded again.

    Raises:
        KneeGradeError: the file cannot be read, or no knee was detected on it.
    """
    content = source.open()
    radiograph, header = radiograph or read_as_graded(content, graded), _header(content)
    is_whole = whole_film and header is not None and header.image.get("BurnedInAnnotation") == "NO"
    values = shared_pixels(radiograph, graded.knees, whole_film=is_whole)
    if header is None:
        pseudonym = pseudonyms.name("film", graded.sha256 or "")
        return shared_picture(values, pseudonym, is_masked=not is_whole)
    return shared_dicom(values, radiograph, header, pseudonyms, is_masked=not is_whole)


def _header(content: Path | bytes) -> FilmHeader | None:
    """The header of a DICOM film; None for a plain picture and for a film without UIDs."""
    try:
        return read_film_header(content)
    except KneeGradeError as error:
        if error.code in NO_HEADER:
            return None
        raise


def _grade_shared(sources: Sequence[Source], directory: Path, formats: tuple[str, ...], grader: Grader) -> Report:
    """The report on the shared films, after it and their objects were written as `kneegrade grade` does."""
    objects = [name for name in formats if name in OBJECT_FORMATS]
    writer = ObjectWriter(directory, objects, Job.of(grader, MOMENT)) if objects else None
    report = grader.grade_sources(sources, derive=writer)
    write_report(report, directory, [name for name in formats if name not in OBJECT_FORMATS])
    return report


def _changes(original: GradedRadiograph, shared: GradedRadiograph) -> tuple[str, ...]:
    """The grades that differ, in words."""
    if len(original.knees) != len(shared.knees):
        return (f"{len(original.knees)} knees -> {len(shared.knees)} knees",)
    changes = []
    for before, after in zip(original.knees, shared.knees, strict=True):
        if before.grades is None or after.grades is None:
            if before.status != after.status:
                changes.append(f"{before.side} {before.status} -> {after.status}")
            continue
        changes += [
            f"{before.side} {name} {grade.grade} -> {after.grades[name].grade}"
            for name, grade in before.grades.items()
            if grade.grade != after.grades[name].grade
        ]
    return tuple(changes)
