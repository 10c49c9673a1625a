"""`SpoolTask`: from a film of the spool to its results there; what a worker process does with each film."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kneegrade.errors import KneeGradeError
from kneegrade.results import Finding, GradedRadiograph
from kneegrade.server.node.own_objects import is_own_object
from kneegrade.server.settings import GradingSettings
from kneegrade.server.spool.film_spool import ClaimedFilm, Spool

if TYPE_CHECKING:
    from kneegrade.grader import Grader
    from kneegrade.imaging import Radiograph, Source

OWN_OBJECT: Final = Finding(
    "own_picture", "This file holds results of kneegrade and is not a film; send the film that it was made from."
)
TRANSIENT: Final = frozenset({"internal", "decoder_start", "decoder_died", "cannot_open", "time"})  # tried again
NO_ROOM: Final = frozenset({"spool_full", "spool", "not_writable"})  # not the film's fault: tried until there is room
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True)
class SpoolOutcome:
    """What became of a film.

    Attributes:
        files: names of the results.
        problem: why there is none, or None.
        is_final: whether another attempt is useless.
        is_postponed: whether the disk prevented it, so that this attempt does not count.
    """

    files: tuple[str, ...] = ()
    problem: str | None = None
    is_final: bool = False
    is_postponed: bool = False


@dataclass(frozen=True)
class SpoolTask:
    """What a worker process does with each film; it can be pickled.

    Attributes:
        spool: folder of the spool.
        grading: see there.
        objects: DICOM and FHIR objects of a DICOM film, of `clinical.OBJECT_FORMATS`.
        institution: Institution Name of the objects, or None.
    """

    spool: Path
    grading: GradingSettings
    objects: tuple[str, ...]
    institution: str | None = None

    def start(self) -> Callable[[ClaimedFilm], SpoolOutcome]:
        """The function from film to outcome, after the networks are loaded. It raises nothing.

        Raises:
            KneeGradeError: the weights, the device or the spool cannot be used.
        """
        from kneegrade.clinical.object_files import checked_formats
        from kneegrade.grader import Grader

        warnings.simplefilter("ignore")  # of libraries, which may show values of a header
        logging.disable(logging.CRITICAL)
        grading = self.grading
        checked_formats(self.objects)
        grader = Grader(
            grading.device, grading.weights, grading.detector, threads=grading.threads, runtime=grading.runtime,
            precision=grading.precision,
        )  # fmt: skip
        spool = Spool(self.spool, min_free_bytes=0)
        return lambda film: self._outcome(grader, spool, film)

    def _outcome(self, grader: "Grader", spool: Spool, film: ClaimedFilm) -> SpoolOutcome:
        try:
            return write_results(grader, spool, film, self.objects, self.institution)
        except KneeGradeError as error:
            return SpoolOutcome(problem=f"{error.code}: {error.message}", is_postponed=error.code in NO_ROOM)
        except Exception as error:  # one film must never end the service; the text of the error may name the patient
            return SpoolOutcome(problem=f"internal: An error in kneegrade ({type(error).__name__}). Report it.")


def write_results(
    grader: "Grader", spool: Spool, film: ClaimedFilm, objects: tuple[str, ...], institution: str | None = None
) -> SpoolOutcome:
    """What became of a film: with its results in the spool, all or none.

    The moment that the objects state is that of the film's arrival, so that grading again gives the same bytes.

    Args:
        grader: with its networks.
        spool: that has the film.
        film: to grade.
        objects: of `clinical.OBJECT_FORMATS`.
        institution: Institution Name of the objects, or None.

    Raises:
        KneeGradeError: the results cannot be written.
    """
    from kneegrade.clinical import OBJECT_FORMATS, Job, film_objects
    from kneegrade.imaging import Source
    from kneegrade.reporting import write_report

    if _is_own(film):
        return SpoolOutcome(problem=f"{OWN_OBJECT.code}: {OWN_OBJECT.message}", is_final=True)
    job = Job.of(grader, datetime.fromtimestamp(film.received).astimezone(), institution=institution)
    contents: Mapping[str, bytes] = {}

    def derive(source: "Source", graded: GradedRadiograph, radiograph: "Radiograph | None") -> GradedRadiograph:
        nonlocal contents
        if graded.failed or not objects or film.kind != "dicom":
            return graded
        contents, findings = film_objects(graded, source, job, objects, radiograph)
        return replace(graded, warnings=(*graded.warnings, *findings))

    report = grader.grade_sources([Source(film.path.name, film.path)], derive=derive)
    (graded,) = report.radiographs
    if graded.failed:
        reason = graded.reason or Finding("internal", "The film has no results.")
        return SpoolOutcome(problem=f"{reason.code}: {reason.message}", is_final=reason.code not in TRANSIENT)
    with spool.writing_results(film.key) as folder:
        write_report(report, folder)
        for name, content in contents.items():
            (folder / OBJECT_FORMATS[name].ending).write_bytes(content)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return SpoolOutcome(files)


def _is_own(film: ClaimedFilm) -> bool:
    """Whether the film is a picture of results of kneegrade, even after an archive has written the file anew."""
    from kneegrade.imaging.own_pictures import is_own_picture

    with film.path.open("rb") as stream:
        start = stream.read(_HEAD_BYTES)
    return is_own_picture(start) or (film.kind == "dicom" and is_own_object(film.path, transfer_syntax=""))
