"""`kneegrade batch`: any number of radiographs → Parquet tables."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import (
    SIDES,
    DetectorOption,
    DeviceFlag,
    DeviceOption,
    OutputOption,
    PrecisionFlag,
    PrecisionOption,
    QuietOption,
    RuntimeFlag,
    RuntimeOption,
    SideOption,
    SpacingOption,
    WeightsOption,
    listed,
)
from kneegrade.commands.stop_signals import Stop, stop_count, stop_signals
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.batch import BatchProgress

LINE_SECONDS = 10.0  # between two lines of progress


class EngineFlag(StrEnum):
    """Values of `--engine`."""

    local = "local"
    ray = "ray"


class LogFlag(StrEnum):
    """Values of `--log-format`."""

    text = "text"
    json = "json"


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="DICOM, PNG, JPEG or TIFF files, folders or zip files that contain them, URLs (s3://, gs://, "
            "https://, …), queries to archives (dicomweb+https://HOST/PATH?Modality=DX), or one table (CSV, Parquet) "
            "with a column of paths.",
        ),
    ],
    output: OutputOption,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of worker processes.", show_default="one per processor"),
    ] = None,
    engine: Annotated[EngineFlag, typer.Option(help="Where the workers run: on this computer, or on Ray.")] = (
        EngineFlag.local
    ),
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of a cluster, for --engine ray.", show_default="Ray is started"),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Grade only the films of part I of N, for a job array.", show_default="all"),
    ] = None,
    path_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the table that has the paths.", show_default="path, …"),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Columns of the table that are copied to the results.", show_default="all"),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="LIST", show_default="none",
            help="Objects to write for each DICOM film, as grade does: sr, gsps, sc, fhir.",
        ),
    ] = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Store the DICOM objects (of --format; default sr,gsps,sc) in the archive that the films come from.",
        ),
    ] = False,
    side: SideOption = None,
    spacing: SpacingOption = None,
    weights: WeightsOption = None,
    detector: DetectorOption = None,
    device: DeviceOption = DeviceFlag.auto,
    runtime: RuntimeOption = RuntimeFlag.torch,
    precision: PrecisionOption = PrecisionFlag.float32,
    log_format: Annotated[LogFlag, typer.Option(help="Progress as a bar, or as lines of JSON.")] = LogFlag.text,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Grade any number of films and write tables; the same command again goes on where it ended.

    Writes knees/*.parquet (a row per knee), films/*.parquet (a row per film), log/*.parquet, run.json and, when all
    films are done, summary.html and summary.json; with --format, also the objects of film.dcm as
    dicom/film.dcm.sr.dcm and so on.

    Exit code 0: every knee of every film was graded. 1: a film could not be read, has no gradable knee, or a knee was
    not graded. 2: wrong usage, or the run ended with an error. 130, 143, 129: stopped by Ctrl-C, SIGTERM or SIGHUP; the
    first signal finishes the films under way, a second one does not.
    """
    with stop_signals():
        if ray_address is not None and engine is not EngineFlag.ray:
            raise UsageError("--ray-address is the address of a Ray cluster; give --engine ray with it.")
        from kneegrade.batch import BatchOptions, RunSettings, Shard, run_batch

        settings = RunSettings(
            runtime.value,
            precision.value,
            device.value,
            side=None if side is None else SIDES[side],
            pixel_spacing_mm=spacing,
        )
        options = BatchOptions(
            weights, detector, settings, workers or processors(), engine.value, ray_address, path_column,
            None if columns is None else listed(columns), formats=_formats(formats, store=store), store=store,
        )  # fmt: skip
        part = None if shard is None else Shard.parse(shard)
        with stop_count() as stop, _progress(log_format, quiet) as show:
            progress = run_batch(inputs, output, options, shard=part, stop=lambda: stop.count, on_progress=show)
    _finish(progress, stop, output, log_format, quiet=quiet)


def _formats(formats: str | None, *, store: bool) -> tuple[str, ...]:
    if formats is not None:
        return listed(formats)
    return ("sr", "gsps", "sc") if store else ()


def processors() -> int:
    """Number of processors that this process may use, under the limits of its container too."""
    import joblib

    return int(joblib.cpu_count())


def _finish(progress: "BatchProgress", stop: Stop, output: Path, log_format: LogFlag, *, quiet: bool) -> None:
    stopped = stop.count > 0 and progress.left > 0
    if log_format is LogFlag.json:
        if not quiet:
            typer.echo(json.dumps({"event": "stopped" if stopped else "finished", **facts(progress)}))
    elif stopped:
        typer.echo(
            f"kneegrade: Stopped by {stop.name}: {progress.done:,} films were graded now and "
            f"{progress.skipped:,} before; {progress.left:,} are left. The same command goes on with them.",
            err=True,
        )
    elif not quiet:
        typer.echo(_sentences(progress, output))
    if stopped:
        raise typer.Exit(stop.exit_code)
    if not progress.all_graded:
        from kneegrade.batch.summary import ungraded_lines

        for reasons in ungraded_lines(output):
            typer.echo(reasons, err=True)
        raise typer.Exit(1)


def _sentences(progress: "BatchProgress", output: Path) -> str:
    lines = []
    if progress.skipped:
        lines.append(f"Finished by an earlier run and not graded again: {progress.skipped:,}.")
    if progress.again:
        lines.append(f"Not readable by an earlier run and tried again: {progress.again:,}.")
    if progress.replaced:
        lines.append(
            f"Changed since an earlier run and graded again: {progress.replaced:,}. The earlier rows stay, with "
            "another sha256."
        )
    if progress.done:
        lines.append(
            f"{progress.done:,} films in {duration(progress.seconds)}: {progress.graded:,} graded, "
            f"{progress.not_gradable:,} without a gradable knee, {progress.failed:,} failed."
        )
    lines.append(
        f"Wrote {progress.summary}" if progress.summary else f"{output} has the tables. Other shards are not finished."
    )
    return "\n".join(lines)


def facts(progress: "BatchProgress") -> dict[str, object]:
    """The state of a run, for a line of JSON."""
    left = progress.seconds_left
    return {
        "total": progress.total,
        "skipped": progress.skipped,
        "replaced": progress.replaced,
        "graded": progress.graded,
        "not_gradable": progress.not_gradable,
        "failed": progress.failed,
        "left": progress.left,
        "seconds": round(progress.seconds, 1),
        "films_per_second": round(progress.films_per_second, 2),
        "seconds_left": None if left is None else round(left),
    }


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(42.4), duration(3700), duration(200_000)
        ('42 s', '1 h 02 min', '55 h 33 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def _progress(log_format: LogFlag, quiet: bool) -> "Iterator[Callable[[BatchProgress], None]]":
    """Yields a function that shows how far a run is: as a bar, or as a line every few seconds."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    if log_format is LogFlag.text and not quiet and sys.stderr.isatty():
        columns = (TextColumn("Grading"), BarColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def move(progress: "BatchProgress") -> None:
                bar.update(task, completed=progress.done + progress.skipped, total=progress.total,
                           description=line(progress))  # fmt: skip

            yield move
        return
    last = time.monotonic()

    def write(progress: "BatchProgress") -> None:
        nonlocal last
        if quiet or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        if log_format is LogFlag.json:
            typer.echo(json.dumps({"event": "progress", **facts(progress)}))
        else:
            typer.echo(line(progress), err=True)

    yield write


def line(progress: "BatchProgress") -> str:
    """How far a run is, in one line."""
    left = progress.seconds_left
    time_left = "" if left is None else f", {duration(left)} left"
    return (
        f"{progress.done + progress.skipped:,}/{progress.total:,} · {progress.films_per_second:.1f}/s{time_left} · "
        f"{progress.graded:,} graded, {progress.not_gradable:,} not gradable, {progress.failed:,} failed"
    )
