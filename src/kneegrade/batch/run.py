"""`run_batch`: INPUT → Parquet tables in a folder; the same call again goes on where the last one ended."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow.compute as pc

from kneegrade.batch.film_task import FilmTask, ObjectSettings, content_version
from kneegrade.batch.finished_films import EarlierFilm, finished_films
from kneegrade.batch.local_engine import LocalEngine
from kneegrade.batch.plan import Plan, PlannedFilm, StopCount, plan_films
from kneegrade.batch.remote_files import is_url, without_secrets
from kneegrade.batch.result_parts import PartWriter, clean, read_table, record_versions
from kneegrade.batch.rows import FilmRows, is_all_graded
from kneegrade.batch.run_file import STARTED, OutputLock, RunSettings, run_description
from kneegrade.batch.shard import Shard
from kneegrade.batch.summary import write_summary
from kneegrade.batch.web_films import store_service
from kneegrade.errors import UsageError
from kneegrade.files import is_shell_pipe
from kneegrade.imaging.sources import sha256_of
from kneegrade.weights import load_weights, shipped_path, weights_reference
from kneegrade.weights.compute import Compute

Engine = Literal["local", "ray"]
SHOW_SECONDS: Final = 0.2  # between two calls of `on_progress` while the films of earlier runs are looked at


@dataclass
class BatchProgress:
    """How far a run is.

    Attributes:
        total: number of films of the shard.
        skipped: films that an earlier run had finished.
        again: rows of unreadable films that were removed to try these films again.
        replaced: films whose content has changed since an earlier run; their earlier rows stay, with another SHA-256.
        graded: films with at least one graded knee, of this run.
        not_gradable: films that were read but have no graded knee.
        failed: films that could not be read or graded.
        all_graded: whether every knee of every film so far, of earlier runs too, has grades; see `is_all_graded`.
        left: number of films without rows, at the end of the run.
        summary: path of the page, if it was written.
    """

    total: int
    skipped: int = 0
    again: int = 0
    replaced: int = 0
    graded: int = 0
    not_gradable: int = 0
    failed: int = 0
    all_graded: bool = True
    summary: Path | None = None
    _start: float = field(default_factory=time.monotonic)
    _first: float | None = None  # time of the first film

    @property
    def done(self) -> int:
        """Films that this run has finished."""
        return self.graded + self.not_gradable + self.failed

    @property
    def left(self) -> int:
        """Films without a row."""
        return self.total - self.skipped - self.done

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._start

    @property
    def films_per_second(self) -> float:
        """Of this run since its first film, as the start of the workers takes seconds; 0 before the second film."""
        return 0.0 if self._first is None else (self.done - 1) / max(time.monotonic() - self._first, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate for the remaining films; None before the second one."""
        return self.left / self.films_per_second if self.done > 1 else None

    def count(self, rows: FilmRows) -> None:
        """Count a film."""
        self._first = self._first or time.monotonic()
        status = rows.film["status"]
        setattr(self, status, getattr(self, status) + 1)
        self.all_graded &= is_all_graded(rows.film)


@dataclass(frozen=True)
class BatchOptions:
    """How the films are graded.

    Attributes:
        weights: safetensors file of a grader; None: the shipped weights.
        detector: safetensors file of a landmark detector; None: the shipped weights.
        settings: runtime, precision, device and what the user states about all films.
        workers: number of processes.
        engine: "local" or "ray".
        ray_address: of a running Ray cluster; None starts Ray on this computer.
        path_column: column of a table of films that holds the paths.
        columns: columns of a table of films that travel to the results; None: all.
        pictures: greatest number of pictures in the summary.
        formats: DICOM and FHIR objects to write for each film, of `clinical.OBJECT_FORMATS`.
        store: store the DICOM objects in the archive that the films come from.
    """

    weights: Path | None = None
    detector: Path | None = None
    settings: RunSettings = field(default_factory=RunSettings)
    workers: int = 1
    engine: Engine = "local"
    ray_address: str | None = None
    path_column: str | None = None
    columns: Sequence[str] | None = None
    pictures: int = 200
    formats: tuple[str, ...] = ()
    store: bool = False


def run_batch(
    inputs: Sequence[str], output: Path, options: BatchOptions, *, shard: Shard | None = None,
    stop: StopCount = lambda: 0, on_progress: Callable[[BatchProgress], None] = lambda progress: None,
) -> BatchProgress:  # fmt: skip
    """How far the run came. Its rows are in the tables of `output`; the summary too, if all shards are finished.

    Args:
        inputs: see `plan_films`.
        output: folder of the tables, of a new or an earlier run.
        options: how the films are graded; what decides about results must be the same in every run into the folder.
        shard: the part of the films to grade; None: all.
        stop: number of signals to stop so far: after the first one films under way are finished, after the second none.
        on_progress: called after each film, and every moment in between; also while the films of earlier runs are
            looked at.

    Raises:
        UsageError: the folder cannot be written, is in use or belongs to another run; there is no film; the device or
            runtime cannot be used; a format of objects is unknown, lacks its package or is wanted of Ray; or results
            cannot be stored where the films come from.
        KneeGradeError: the weights cannot be used, or workers die one after the other.
        KeyboardInterrupt: there was a signal while the films were listed or compared with those of earlier runs.
    """
    mine = shard or Shard()
    if options.formats or options.store:
        _check_formats(options)
    service = store_service(inputs) if options.store else None
    given = options.settings
    device = Compute.choose(given.device, given.runtime, given.precision, given.threads).device
    options = replace(options, settings=replace(given, device=device))  # run.json states what "auto" means here
    lock = OutputLock(output)
    with closing(lock):
        lock.lock_shard(mine)
        plan = plan_films(inputs, shard=mine, path_column=options.path_column, columns=options.columns, stop=stop)
        run = lock.fix(_description(inputs, options, plan, service))
        progress = BatchProgress(len(plan.films), again=clean(output, mine, lock.parts))
        task = FilmTask(options.weights, options.detector, options.settings)
        if options.formats:
            when = datetime.fromisoformat(run[STARTED])
            task = replace(task, objects=ObjectSettings(output.absolute(), options.formats, when, service))
        engine = _engine(task, options, stop)
        left = _left(plan.films, output, lock, mine, progress, stop, on_progress)
        _grade(left, PartWriter(output, mine, plan.fields), engine, on_progress, progress)
        if not progress.left and _finished_names(output) >= plan.total:
            with lock.summary():
                progress.summary = write_summary(output, plan.films, pictures=options.pictures, stop=stop)
        return progress


def _finished_names(output: Path) -> int:
    """Number of films with a row, of all shards; a film that was replaced has two rows."""
    return int(pc.count_distinct(read_table(output, "films", ["source"])["source"]).as_py())


def _check_formats(options: BatchOptions) -> None:
    """Raises a UsageError if the objects cannot be written."""
    from kneegrade.clinical.object_files import checked_formats

    formats = checked_formats(options.formats)
    if options.store and not {"sr", "gsps", "sc"} & {*formats}:
        raise UsageError("There is nothing to store: of the formats, archives take sr, gsps and sc only.")
    if options.engine == "ray":
        raise UsageError(
            "Actors of Ray may run on computers that do not have the output folder, so they write no DICOM or FHIR "
            "objects; use --engine local, with --shard on several computers."
        )


def _grade(
    films: Sequence[PlannedFilm], writer: PartWriter, engine: Any, on_progress: Callable[[BatchProgress], None],
    progress: BatchProgress,
) -> None:  # fmt: skip
    try:
        with closing(engine.run(films)) as results:
            for rows in results:
                if rows is not None:
                    writer.add(rows)
                    progress.count(rows)
                else:
                    writer.flush_if_due()
                on_progress(progress)
    finally:
        writer.flush()
    on_progress(progress)


def _engine(task: FilmTask, options: BatchOptions, stop: StopCount) -> Any:
    if options.engine == "local":
        return LocalEngine(task, workers=options.workers, stop=stop)
    from kneegrade.batch.ray_engine import RayEngine

    uses_gpu = options.settings.device == "cuda"
    return RayEngine(task, workers=options.workers, stop=stop, address=options.ray_address, uses_gpu=uses_gpu)


def _left(
    films: Sequence[PlannedFilm], output: Path, lock: OutputLock, shard: Shard, progress: BatchProgress,
    stop: StopCount, on_progress: Callable[[BatchProgress], None],
) -> list[PlannedFilm]:  # fmt: skip
    """The films to grade; the others are counted as skipped.

    A film whose file has changed since it was graded is read; only if its bytes are others, it is graded again. Else
    its new state is recorded, so that the next run need not read it.

    Raises:
        KeyboardInterrupt: there was a signal.
    """
    finished = finished_films(output, shard).of([film.source.name for film in films])
    left, versions, shown = list[PlannedFilm](), dict[tuple[str, str], str](), time.monotonic()
    try:
        for film, earlier in zip(films, finished, strict=True):
            if stop():
                raise KeyboardInterrupt
            known = _known(film, earlier, versions)
            if known:
                progress.skipped += 1
                progress.all_graded &= all(row.all_graded for row in known)
            else:
                progress.replaced += bool(earlier)
                left.append(film)
            if time.monotonic() - shown >= SHOW_SECONDS:
                on_progress(progress)
                shown = time.monotonic()
    finally:
        record_versions(output, shard, versions, lock.parts)
    return left


def _known(film: PlannedFilm, earlier: list[EarlierFilm], versions: dict[tuple[str, str], str]) -> list[EarlierFilm]:
    """The earlier rows that hold for a film as it is now; all of them if its content cannot be told.

    `versions` gets the state of a file with another state and the same bytes.
    """
    version = content_version(film) if earlier else None
    if version is None:
        return earlier
    if same := [row for row in earlier if row.version == version]:
        return same
    try:
        sha256 = sha256_of(film.source.open())
    except Exception:  # each kind of source raises its own exceptions
        sha256 = None
    if sha256 is None:  # it cannot be read now; the earlier rows remain
        return earlier
    same = [row for row in earlier if row.sha256 == sha256]
    if same:
        versions[film.source.name, sha256] = version
    return same


def _description(inputs: Sequence[str], options: BatchOptions, plan: Plan, store_at: str | None) -> dict[str, Any]:
    kinds = (("grader", options.weights), ("detector", options.detector))
    loaded = {kind: load_weights(path or shipped_path(kind), kind) for kind, path in kinds}
    return run_description(
        options.settings,
        {kind: weights_reference(one.description) for kind, one in loaded.items()},
        [_lasting_name(one) for one in inputs],
        [f"{column.name}: {column.type}" for column in plan.fields],
        options.formats,
        store_at,
    )


def _lasting_name(given: str) -> str:
    """An input as run.json states it, the same in every run: a shell gives its pipes other numbers each time."""
    if is_url(given):
        return without_secrets(given)
    return "a pipe" if is_shell_pipe(Path(given)) else os.path.realpath(given)
