"""`FilmTask`: from a planned film to its rows; the same function on every engine."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

from kneegrade.anatomy import UserHints
from kneegrade.batch.parquet import INPUT_PREFIX, film_row, knee_rows
from kneegrade.batch.plan import PlannedFilm
from kneegrade.batch.remote_files import RemoteFile
from kneegrade.batch.rows import FilmRows, Row
from kneegrade.batch.run_file import RunSettings
from kneegrade.batch.web_films import ArchiveFilm, StoringWriter, read_once
from kneegrade.errors import KneeGradeError
from kneegrade.imaging.sources import sha256_of
from kneegrade.imaging.zip_members import ZipMember
from kneegrade.results import Finding, GradedRadiograph
from kneegrade.ungraded import internal_error

if TYPE_CHECKING:
    from kneegrade.grader import Derive, Grader

HASH_SECONDS: Final = 10.0  # to read a film that no worker could finish


@dataclass(frozen=True)
class ObjectSettings:
    """Which DICOM and FHIR objects a worker writes for each film.

    Attributes:
        directory: output folder of the run.
        formats: of `clinical.OBJECT_FORMATS`.
        when: moment that the objects state: the start of the first run into the folder, so that a film that is graded
            again after a kill gets the same bytes.
        store_at: URL of the DICOMweb service that the DICOM objects are stored in, or None.
    """

    directory: Path
    formats: tuple[str, ...]
    when: datetime
    store_at: str | None = None


@dataclass(frozen=True)
class FilmTask:
    """What a worker process does with each film; it can be pickled.

    Attributes:
        weights: safetensors file of the grader; None: the shipped weights.
        detector: safetensors file of the landmark detector; None: the shipped weights.
        settings: device, runtime and precision, and what the user states about all films.
        objects: what to write for each film beside its rows, or None.
    """

    weights: Path | None = None
    detector: Path | None = None
    settings: RunSettings = field(default_factory=RunSettings)
    objects: ObjectSettings | None = None

    @property
    def hints(self) -> UserHints:
        """What the user states about all films."""
        spacing = self.settings.pixel_spacing_mm
        return UserHints(self.settings.side, None if spacing is None else (spacing, spacing))

    def start(self) -> Callable[[PlannedFilm], FilmRows]:
        """The function from film to rows, after the networks are loaded. It raises nothing.

        Raises:
            KneeGradeError: the weights or the device cannot be used.
        """
        from kneegrade.grader import Grader

        settings, hints = self.settings, self.hints
        grader = Grader(
            settings.device, self.weights, self.detector, threads=settings.threads, runtime=settings.runtime,
            precision=settings.precision,
        )  # fmt: skip
        write = None if self.objects is None else _object_writer(self.objects, grader, hints)
        return lambda film: film_rows(grader, film, hints, write)


def _object_writer(objects: ObjectSettings, grader: "Grader", hints: UserHints) -> "Derive":
    from kneegrade.clinical import Job, ObjectWriter

    job = Job.of(grader, objects.when, hints)
    write = ObjectWriter(objects.directory, objects.formats, job, full_names=True)  # workers do not know other names
    return write if objects.store_at is None else StoringWriter(write, objects.store_at)


def film_rows(grader: "Grader", film: PlannedFilm, hints: UserHints, write_objects: "Derive | None" = None) -> FilmRows:
    """The rows of a film, after its objects were written. Nothing is raised: a problem becomes the film's reason."""
    version = content_version(film)
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        graded = grader.grade_film(read_once(film.source), hints, write_objects)
    except Exception as error:  # its objects cannot be written; without a checksum, the next run tries it again
        reason = Finding(error.code, error.message) if isinstance(error, KneeGradeError) else internal_error(error)
        graded = GradedRadiograph(film.source.name, reason=reason, failed=True)
    try:
        rows = rows_of(film, graded)
    except Exception as error:  # one film must never end a run of many
        reason = internal_error(error)
        rows = rows_of(film, GradedRadiograph(graded.source, reason=reason, failed=True, sha256=graded.sha256))
    log = log_row(rows.film, time.perf_counter() - start, version)
    return FilmRows(rows.film, rows.knees, log | {"cpu_seconds": time.process_time() - cpu_start})


def rows_of(film: PlannedFilm, graded: GradedRadiograph) -> FilmRows:
    """The rows of a graded film, with the columns of the user's table, and an empty row of `log`."""
    carried = {INPUT_PREFIX + name: value for name, value in film.columns}
    return FilmRows(film_row(graded) | carried, [row | carried for row in knee_rows(graded)], {})


def is_remote(film: PlannedFilm) -> bool:
    """Whether the film comes from a store, a web server or an archive."""
    return isinstance(film.source.load, RemoteFile | ArchiveFilm)


def failed_rows(film: PlannedFilm, reason: Finding, attempts: int, seconds: float = HASH_SECONDS) -> FilmRows:
    """The rows of a film that no worker could finish.

    Its checksum is computed here; it is None for a remote film, and for one whose disk does not answer in time, so that
    the next run tries the film again.

    Args:
        film: that was tried.
        reason: why it failed.
        attempts: how often it was tried.
        seconds: for reading the file.
    """
    found: list[tuple[str | None, str | None]] = []

    def read() -> None:
        with suppress(Exception):  # the file cannot be read either
            version = content_version(film)  # first: if the file changes meanwhile, the next run notices it
            found.append((sha256_of(film.source.open()), version))

    if not is_remote(film):
        thread = Thread(target=read, daemon=True)  # a file on a network that is away is waited for without end
        thread.start()
        thread.join(seconds)
    sha256, version = found[0] if found else (None, None)
    rows = rows_of(film, GradedRadiograph(film.source.name, reason=reason, failed=True, sha256=sha256))
    return FilmRows(rows.film, [], log_row(rows.film, None, version) | {"attempts": attempts})


def log_row(film: Row, seconds: float | None, version: str | None) -> Row:
    """The row of `log` of a film that was done now."""
    return {
        "source": film["source"],
        "sha256": film["sha256"],
        "seconds": seconds,
        "attempts": 1,
        "host": socket.gethostname(),
        "finished": datetime.now(UTC),
        "version": version,
    }


def content_version(film: PlannedFilm) -> str | None:
    """A text that changes when the film's file changes: size and time of change; None if they are not known.

    Of a film behind a URL, it is `RemoteFile.state`. An archive does not change its films. Nothing is raised.
    """
    load = film.source.load
    if isinstance(load, RemoteFile):
        return load.state()
    path = load.path if isinstance(load, ZipMember) else film.source.path
    if path is None:
        return None
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: the path has a zero byte
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"
