"""`kneegrade grade`: radiographs → report."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import (
    SIDES,
    DetectorOption,
    DeviceFlag,
    DeviceOption,
    InputsArgument,
    MirroredFlag,
    MirroredOption,
    OutputOption,
    PrecisionFlag,
    PrecisionOption,
    QuietOption,
    RuntimeFlag,
    RuntimeOption,
    SideOption,
    SpacingOption,
    ThreadsOption,
    UnitFlag,
    UnitOption,
    WeightsOption,
    progress_bar,
    report_and_object_formats,
    sources_in,
    spacing_of,
)
from kneegrade.commands.stop_signals import Stop, stop_signals
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.clinical import ObjectWriter
    from kneegrade.results import Report


def grade(
    inputs: InputsArgument,
    output: OutputOption,
    formats: Annotated[
        str,
        typer.Option(
            "--format", metavar="LIST",
            help="Comma-separated formats to write: json, html, csv; for DICOM films also sr (structured report), gsps "
            "(presentation state), sc (secondary capture) and fhir (FHIR R4 Bundle).",
        ),
    ] = "json,html,csv",
    side: SideOption = None,
    spacing: SpacingOption = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default="detected",
            help="Landmarks to grade at: a .pts file, a folder of .pts files named like the films, or a COCO file.",
        ),
    ] = None,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    weights: WeightsOption = None,
    detector: DetectorOption = None,
    device: DeviceOption = DeviceFlag.auto,
    runtime: RuntimeOption = RuntimeFlag.torch,
    precision: PrecisionOption = PrecisionFlag.float32,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Grade the knees on radiographs and write a report.

    Writes report.json, report.html and grades.csv; the DICOM objects of film.dcm as dicom/film.sr.dcm and so on, if
    --format lists them. With report.json, inputs.json tells `kneegrade viewer` where the films are. While it runs, each
    film is added to films.partial.jsonl as soon as it is graded; this file remains if the process is killed or the
    report cannot be written.

    Other files in folders and zip files, such as programs, documents and DICOM reports, are left out and counted.

    Exit code 0: every knee of every film was graded. 1: a film could not be read, has no gradable knee, or a knee was
    not graded; one line for each of these gives the reasons with counts. 2: wrong usage. 130, 143, 129: stopped by
    Ctrl-C, SIGTERM or SIGHUP; the report has the films graded until then.
    """
    from kneegrade.files import locked_output, prepare_output
    from kneegrade.reporting import JOURNAL, film_journal, report_files, write_inputs, write_report

    when = datetime.now().astimezone()
    wanted, object_formats = report_and_object_formats(formats)
    others = Counter[str]()
    sources = sources_in(inputs, others)
    prepare_output(output, [*report_files(wanted), JOURNAL])
    with stop_signals() as stop, locked_output(output):
        from kneegrade.anatomy import UserHints, UserLandmarks
        from kneegrade.grader import Grader
        from kneegrade.ungraded import GradingInterrupted

        user_landmarks = None if landmarks is None else UserLandmarks(landmarks, unit.value, mirrored.value)
        if user_landmarks is not None:
            _check_landmarks(user_landmarks.path, len(sources))
        hints = UserHints(None if side is None else SIDES[side], spacing_of(spacing), user_landmarks)
        grader = Grader(
            device.value, weights, detector, threads=threads, runtime=runtime.value, precision=precision.value
        )
        bar = progress_bar("Grading", quiet or len(sources) < 2)
        with film_journal(output) as add_film, bar as advance:

            def progress(done: int, total: int, loss: float | None = None) -> None:
                stop.check()
                advance(done, total)

            objects = None
            if object_formats:
                from kneegrade.clinical import Job, ObjectWriter

                objects = ObjectWriter(output, object_formats, Job.of(grader, when, hints))
            try:
                report, left = grader.grade_sources(sources, hints, progress, add_film, objects), 0
            except GradingInterrupted as interrupted:
                report, left = interrupted.report, interrupted.left
            if left == len(report.radiographs):
                raise KeyboardInterrupt
            written = write_report(report, output, wanted)
            if "json" in wanted:
                write_inputs(inputs, output)
        if left:
            _stopped(report, stop, left)
        _finish(report, written, others, objects, quiet=quiet)


def _check_landmarks(path: Path, films: int) -> None:
    """Raises a UsageError if one .pts file was given for several films."""
    if path.is_file() and path.suffix.lower() == ".pts" and films > 1:
        raise UsageError(
            f"A .pts file contains the landmarks of one film, but the input has {films} films; give a folder "
            "with one .pts file for each film."
        )


def _stopped(report: "Report", stop: Stop, left: int) -> None:
    """Says that `left` films were not reached before the signal, and ends with the exit code."""
    from kneegrade.reporting.report_labels import printable

    total = len(report.radiographs)
    first = report.radiographs[total - left].source
    typer.echo(
        f"kneegrade: Stopped by {stop.name}: {total - left} of {total} films were processed and are in the report. "
        f"{left} were left, from {printable(first)!r} on; they have the reason `interrupted`.",
        err=True,
    )
    raise typer.Exit(stop.exit_code)


def _finish(
    report: "Report", written: dict[str, Path], others: Counter[str], objects: "ObjectWriter | None", *, quiet: bool
) -> None:
    """Prints the report, and ends with the exit code."""
    from kneegrade.reporting.terminal import ungraded_lines

    if quiet:
        for line in ungraded_lines(report):
            typer.echo(line, err=True)
    else:
        _print_report(report, written, others, objects)
    if not report.all_graded:
        raise typer.Exit(1)


def _print_report(
    report: "Report", written: dict[str, Path], others: Counter[str], objects: "ObjectWriter | None"
) -> None:
    from rich.console import Console

    from kneegrade.imaging import other_files_line
    from kneegrade.reporting.terminal import grades_table, ungraded_lines

    console = Console()
    console.print(grades_table(report))
    lines = ungraded_lines(report)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    if lines:
        console.print("The table above and the report state the reasons. The exit code is 1.", soft_wrap=True)
    if others:
        console.print(other_files_line(others), soft_wrap=True, highlight=False)
    for path in written.values():
        console.print(f"Wrote {path}", soft_wrap=True, highlight=False, markup=False)
    for line in () if objects is None else _object_lines(objects):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _object_lines(objects: "ObjectWriter") -> list[str]:
    """What was written to which folder, and one line for each reason why objects are missing."""
    from kneegrade.reporting.report_labels import printable

    folders = dict.fromkeys(path.parent for path in objects.paths)
    lines = [f"Wrote {sum(path.parent == folder for path in objects.paths)} files to {folder}" for folder in folders]
    for reason in dict.fromkeys(reason for _, reason in objects.missing):
        names = [printable(name) for name, other in objects.missing if other == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{more}: {reason.message}")
    return lines
