"""Verbs that read radiographs: `grade`, `landmarks`, `info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kneegrade.commands.shared import (
    SIDES,
    DetectorOption,
    DeviceFlag,
    MirroredFlag,
    MirroredOption,
    OutputOption,
    QuietOption,
    SideFlag,
    SpacingOption,
    UnitFlag,
    UnitOption,
    progress_bar,
    spacing_of,
)
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.reporting.landmark_export import ExportedFilm
    from kneegrade.results import Report


def grade(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="DICOM, PNG, JPEG, TIFF, folders, zips.")],
    output: OutputOption,
    side: Annotated[SideFlag | None, typer.Option(help="Side of single knees whose file does not say.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Any of json,html,csv.")] = "json,html,csv",
    landmarks: Annotated[
        Path | None, typer.Option(help="Your own: a .pts file, a folder of them named like the films, or COCO JSON.")
    ] = None,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    spacing: SpacingOption = None,
    weights: Annotated[Path | None, typer.Option(help="A grader's weights of your own (train, calibrate).")] = None,
    detector: DetectorOption = None,
    device: DeviceFlag = DeviceFlag.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Films taken through the networks together.")] = 16,
    quiet: QuietOption = False,
) -> None:
    """Grade radiographs; write report.json, report.html and grades.csv.

    Exit code 0: every knee of every file graded; 1: a file that cannot be read, a film without a gradable knee or a
    knee that was not graded; 2: wrong usage.
    """
    from kneegrade.imaging import find_sources
    from kneegrade.reporting import make_directory, write_report

    wanted = _formats(formats)
    sources = list(find_sources(inputs))
    if not sources:
        raise UsageError("The input holds no picture that could be graded.")
    make_directory(output)
    from kneegrade.anatomy import UserLandmarks
    from kneegrade.grader import Grader, UserHints

    marked = None if landmarks is None else UserLandmarks(landmarks, unit.value, mirrored.value)
    if landmarks is not None and landmarks.is_file() and landmarks.suffix.lower() == ".pts" and len(sources) > 1:
        raise UsageError("One .pts file serves one film; name a folder of them, one for each film.")
    said = UserHints(None if side is None else SIDES[side], spacing_of(spacing), marked)

    grader = Grader(device.value, weights, batch_size, detector)
    with progress_bar("Grading", quiet or len(sources) < 2) as advance:
        report = grader.grade_sources(sources, said, progress=advance)
    written = write_report(report, output, wanted)
    if not quiet:
        _show(report, written)
    if not report.all_graded:
        raise typer.Exit(1)


def _formats(text: str) -> tuple[str, ...]:
    from kneegrade.reporting import FORMATS

    wanted = tuple(part.strip() for part in text.split(",") if part.strip())
    if not wanted or set(wanted) - set(FORMATS):
        raise typer.BadParameter(f"{text!r}: choose among {','.join(FORMATS)}.", param_hint="--format")
    return wanted


def _show(report: "Report", written: dict[str, Path]) -> None:
    from rich.console import Console

    from kneegrade.reporting.terminal import grades_table, ungraded_lines

    console = Console()
    console.print(grades_table(report))
    lines = ungraded_lines(report)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    if lines:
        console.print("The reasons are in the table above and in the report; the exit code is 1.", soft_wrap=True)
    for path in written.values():
        console.print(f"Wrote {path}", soft_wrap=True, highlight=False)


def landmarks(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="DICOM, PNG, JPEG, TIFF, folders, zips.")],
    output: OutputOption,
    formats: Annotated[str, typer.Option("--format", help="Any of pts,csv,coco,png.")] = "pts,png",
    side: Annotated[SideFlag | None, typer.Option(help="Side of single knees whose file does not say.")] = None,
    spacing: SpacingOption = None,
    detector: DetectorOption = None,
    device: DeviceFlag = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:
    """Find 74 landmarks and the joint space of each knee; write .pts, KNEEL's CSV, COCO keypoints or pictures.

    Exit code 0: knees on every film; 1: none on some; 2: wrong usage.
    """
    from kneegrade.imaging import find_sources

    sources = list(find_sources(inputs))
    if not sources:
        raise UsageError("The input holds no picture.")
    from kneegrade.anatomy import LandmarkDetector
    from kneegrade.grader import UserHints, choose_device
    from kneegrade.reporting.landmark_export import write_landmarks

    wanted = tuple(part.strip() for part in formats.split(",") if part.strip())
    said = UserHints(None if side is None else SIDES[side], spacing_of(spacing))
    with progress_bar("Outlining", quiet or len(sources) < 2) as advance:
        films = write_landmarks(
            sources, output, wanted, LandmarkDetector(detector, choose_device(device.value)), said,
            lambda done: advance(done, len(sources)),
        )  # fmt: skip
    if not quiet:
        _show_landmarks(films, output)
    if not all(film.knees for film in films):
        raise typer.Exit(1)


def _show_landmarks(films: "list[ExportedFilm]", output: Path) -> None:
    from rich.console import Console

    from kneegrade.reporting.terminal import landmarks_table

    console = Console()
    rows = [
        (film.film.source, knee.knee.side, knee.knee.landmark_confidence, knee.joint_space)
        for film in films
        for knee in film.knees
    ]
    console.print(landmarks_table(rows))
    for film in films:
        if not film.knees:
            reason = film.film.reason or next(no for no in film.film.refusals if no is not None)
            console.print(f"{film.film.source}: {reason.message}", highlight=False, markup=False)
    console.print(f"Wrote to {output}", soft_wrap=True, highlight=False)


def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say versions, weights and device."""
    import platform
    from importlib.metadata import version

    import torch

    from kneegrade.version import __version__
    from kneegrade.weights import identity_of, read_description, shipped_path

    facts: dict[str, Any] = {
        "kneegrade": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pydicom": version("pydicom"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {kind: identity_of(read_description(shipped_path(kind))) for kind in ("grader", "detector")},
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if key != "weights":
            typer.echo(f"{key:10} {value}")
    for kind, d in facts["weights"].items():
        typer.echo(f"{kind:10} {d['name']}  sha256 {d['sha256'][:16]}…")
