"""`kneegrade landmarks`: radiographs → landmark files and joint space."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import (
    SIDES,
    DetectorOption,
    DeviceFlag,
    DeviceOption,
    InputsArgument,
    OutputOption,
    QuietOption,
    SideOption,
    SpacingOption,
    listed,
    progress_bar,
    sources_in,
    spacing_of,
)
from kneegrade.commands.stop_signals import stop_signals

if TYPE_CHECKING:
    from kneegrade.reporting.landmark_export import ExportedFilm


def landmarks(
    inputs: InputsArgument,
    output: OutputOption,
    formats: Annotated[
        str,
        typer.Option(
            "--format", metavar="LIST",
            help="Comma-separated formats to write: pts, csv (KNEEL table), coco (keypoints JSON), png (overlays).",
        ),
    ] = "pts,png",
    side: SideOption = None,
    spacing: SpacingOption = None,
    detector: DetectorOption = None,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Detect 74 landmarks per knee and measure the joint space.

    Exit code 0: a knee was detected on every film. 1: a film has no knee or could not be read, or a picture shows more
    knees than a film has. 2: wrong usage. 130, 143, 129: stopped by Ctrl-C, SIGTERM or SIGHUP; the files have the films
    until then.
    """
    from kneegrade.files import locked_output, prepare_output

    others = Counter[str]()
    sources, wanted = sources_in(inputs, others), listed(formats)
    from kneegrade.reporting.landmark_export import TABLES, write_landmarks

    prepare_output(output, [file for name, file in TABLES.items() if name in wanted])
    from kneegrade.anatomy import LandmarkDetector, UserHints
    from kneegrade.weights.compute import Compute

    hints = UserHints(None if side is None else SIDES[side], spacing_of(spacing))
    found = LandmarkDetector(detector, Compute.choose(device.value))
    written = 0
    bar = progress_bar("Detecting landmarks", quiet or len(sources) < 2)
    with stop_signals() as stop, locked_output(output), bar as advance:

        def progress(done: int, total: int, loss: float | None = None) -> None:
            nonlocal written
            written = done
            stop.check()
            advance(done, total)

        try:
            films = write_landmarks(sources, output, wanted, found, hints, progress)
        except KeyboardInterrupt:
            typer.echo(
                f"kneegrade: Stopped by {stop.name}: the files have {written} of {len(sources)} films.", err=True
            )
            raise typer.Exit(stop.exit_code) from None
    reasons = _reasons(films)
    if quiet:
        for line in reasons:
            typer.echo(line, err=True)
    else:
        _print_landmarks(films, reasons, output, others)
    if reasons:
        raise typer.Exit(1)


def _print_landmarks(films: "list[ExportedFilm]", reasons: list[str], output: Path, others: Counter[str]) -> None:
    from rich.console import Console

    from kneegrade.imaging import other_files_line
    from kneegrade.reporting.terminal import landmarks_table

    console = Console()
    rows = [
        (film.film.source, knee.knee.side, knee.knee.landmark_confidence, knee.joint_space)
        for film in films
        for knee in film.knees
    ]
    console.print(landmarks_table(rows))
    for line in reasons:
        console.print(line, highlight=False, markup=False)
    if others:
        console.print(other_files_line(others), soft_wrap=True, highlight=False)
    console.print(f"Wrote the files to {output}", soft_wrap=True, highlight=False, markup=False)


def _reasons(films: "list[ExportedFilm]") -> list[str]:
    """A line for each film without a knee in a frontal view and each picture of several films, and their number."""
    from kneegrade.results import MORE_KNEES

    lines = []
    for film in films:
        reasons = [warning for warning in film.film.warnings if warning.code == MORE_KNEES]
        if not film.knees:
            reasons = [film.film.reason or next(refusal for refusal in film.film.refusals if refusal is not None)]
        lines += [f"{film.film.source}: {reason.message}" for reason in reasons]
    without = sum(not film.knees for film in films)
    if without and len(films) > 1:
        lines.append(f"{without} of {len(films)} films could not be read or have no knee in a frontal view.")
    return lines
