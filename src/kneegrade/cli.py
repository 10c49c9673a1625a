"""The command line: one function per verb; a stage is imported only when its verb runs."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kneegrade.errors import KneeGradeError, UsageError

if TYPE_CHECKING:
    from kneegrade.results import Report

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Kellgren-Lawrence and OARSI grades of plain knee radiographs. Research use, not a medical device.",
)  # fmt: skip
cohort_app = typer.Typer(no_args_is_help=True, help="Turn a labelled cohort into a manifest.")
app.add_typer(cohort_app, name="cohort")


class SideFlag(StrEnum):
    """Side of a single knee."""

    R = "R"
    L = "L"


class DeviceFlag(StrEnum):
    """Where the networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrevalenceFlag(StrEnum):
    """Population that phantoms are drawn from."""

    natural = "natural"
    paper = "paper"
    uniform = "uniform"


_SIDES: dict[SideFlag, Literal["R", "L"]] = {SideFlag.R: "R", SideFlag.L: "L"}

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; made if it is not there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@app.command()
def grade(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="DICOM, PNG, JPEG, TIFF, folders, zips.")],
    output: OutputOption,
    side: Annotated[SideFlag | None, typer.Option(help="Side of single knees whose file does not say.")] = None,
    formats: Annotated[str, typer.Option("--format", help="Any of json,html,csv.")] = "json,html,csv",
    device: DeviceFlag = DeviceFlag.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Films taken through the networks together.")] = 16,
    quiet: QuietOption = False,
) -> None:
    """Grade radiographs; write report.json, report.html and grades.csv.

    Exit code 0: everything graded; 1: some input was not graded; 2: wrong usage.
    """
    from kneegrade.imaging import find_sources
    from kneegrade.reporting import make_directory, write_report

    wanted = _formats(formats)
    sources = list(find_sources(inputs))
    if not sources:
        raise UsageError("The input holds no picture that could be graded.")
    make_directory(output)
    from kneegrade.grader import Grader

    grader = Grader(device.value, batch_size=batch_size)
    flag = None if side is None else _SIDES[side]
    with _progress_bar("Grading", quiet or len(sources) < 2) as advance:
        report = grader.grade_sources(sources, side=flag, progress=lambda done, graded: advance(done, len(sources)))
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

    from kneegrade.reporting import grades_table

    console = Console()
    console.print(grades_table(report))
    refused = sum(radiograph.status != "graded" for radiograph in report.radiographs)
    if refused:
        console.print(f"{refused} of {len(report.radiographs)} files not graded; the reasons are in the report.")
    for path in written.values():
        console.print(f"Wrote {path}", soft_wrap=True, highlight=False)


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say versions, weights and device."""
    import platform
    from importlib.metadata import version

    import torch

    from kneegrade.version import __version__
    from kneegrade.weights import read_description, shipped_path

    held = {kind: read_description(shipped_path(kind)) for kind in ("grader", "detector")}
    facts: dict[str, Any] = {
        "kneegrade": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pydicom": version("pydicom"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "weights": {kind: {"name": d["name"], "sha256": d["sha256"]} for kind, d in held.items()},
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if key != "weights":
            typer.echo(f"{key:10} {value}")
    for kind, d in facts["weights"].items():
        typer.echo(f"{kind:10} {d['name']}  sha256 {d['sha256'][:16]}…")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file; recipes/ holds some.")],
    output: OutputOption,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, replaces the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run folder's checkpoint.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Train a grader or a landmark detector from a recipe."""
    from kneegrade.learning.train import train_recipe

    with _progress_bar("Training", quiet) as advance:
        done = train_recipe(recipe, output, settings or [], resume=resume, progress=advance)
    if not done:
        typer.echo("Stopped; the checkpoint is written. Continue with --resume.", err=True)
        raise typer.Exit(1)
    if not quiet:
        typer.echo(f"Wrote {output / 'weights.safetensors'} and its description.")


@app.command()
def store(
    manifest: Annotated[Path, typer.Argument(help="Parquet manifest with landmarks.")],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Cut the knees of a manifest into a store that training reads."""
    from kneegrade.cohorts import load_manifest
    from kneegrade.learning.store import build_store

    with _progress_bar("Cutting", quiet) as advance:
        bad = build_store(load_manifest(manifest), output, progress=advance)
    for line in bad:
        typer.echo(line, err=True)
    if bad:
        raise typer.Exit(1)


@app.command()
def phantom(
    output: OutputOption,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many films, or single knees.")] = 10,
    prevalence: Annotated[PrevalenceFlag, typer.Option(help="How common each grade is.")] = PrevalenceFlag.natural,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another seed, another population.")] = 0,
    films: Annotated[bool, typer.Option("--films", help="DICOM films and their truth (the default).")] = False,
    rois: Annotated[bool, typer.Option("--rois", help="One array of single knees, 320 px, and their truth.")] = False,
    store: Annotated[bool, typer.Option("--store", help="A store for `kneegrade train`.")] = False,
    widths: Annotated[float, typer.Option(min=0.5, max=5, help="Plateau widths that a store's picture spans.")] = 1.5,
    implants: Annotated[float, typer.Option(min=0, max=1, help="Share of knees with metal (films, rois).")] = 0.0,
    distractors: Annotated[float, typer.Option(min=0, max=1, help="Share of films without a knee.")] = 0.0,
    readers: Annotated[bool, typer.Option("--readers", help="Add a second reader's labels (films, rois).")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make synthetic radiographs with known truth."""
    if films + rois + store > 1:
        raise UsageError("--films, --rois and --store were given together; choose one.")
    if (store and (implants or readers)) or (distractors and (store or rois)):
        raise UsageError("--implants and --readers go with films and rois, --distractors with films only.")
    with _progress_bar("Rendering", quiet) as advance:
        if store:
            from kneegrade.learning.phantoms import build_phantom_store

            build_phantom_store(output, number, prevalence.value, seed, widths=widths, progress=advance)
        else:
            from kneegrade.phantom import Cohort, write_cohort

            kind: Literal["films", "rois"] = "rois" if rois else "films"
            cohort = Cohort(number, prevalence.value, seed, kind, implants, distractors, readers)
            write_cohort(output, cohort, advance)


@cohort_app.command()
def chen2018(
    root: Annotated[Path, typer.Argument(help="Unpacked folder that holds train/, val/ or test/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    soft_labels: Annotated[Path | None, typer.Option(help="Parquet table of predicted landmarks and grades.")] = None,
    image_only: Annotated[bool, typer.Option(help="Soft labels of the image alone, without the published KL.")] = False,
) -> None:
    """Manifest of the Chen 2018 crops (Mendeley Data, doi 10.17632/56rmx5bjcr.1, CC BY 4.0)."""
    from kneegrade.cohorts import chen2018_manifest

    table = chen2018_manifest(root, soft_labels, given_kl=not image_only)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".tmp")
    table.to_parquet(partial)
    partial.replace(output)
    typer.echo(f"{len(table)} knees of {table['subject_id'].nunique()} people in {output}")


@contextmanager
def _progress_bar(title: str, silent: bool) -> Iterator[Any]:
    """Gives a function (done, all, loss=None) that moves a bar on the terminal's error stream."""
    if silent:
        yield lambda done, total, loss=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int, loss: float | None = None) -> None:
            text = title if loss is None else f"{title} (loss {loss:.3f})"
            bar.update(task, completed=done, total=total, description=text)

        yield advance


def main() -> None:
    """Entry point: a KneeGradeError becomes one sentence and exit code 2."""
    try:
        app()
    except KneeGradeError as error:
        typer.echo(f"kneegrade: {error.message}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
