"""Verbs that make what networks learn from, and train them: `phantom`, `store`, `train`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from kneegrade.commands.shared import (
    MirroredFlag,
    MirroredOption,
    OutputOption,
    QuietOption,
    UnitFlag,
    UnitOption,
    progress_bar,
)
from kneegrade.errors import UsageError


class PrevalenceFlag(StrEnum):
    """Population that phantoms are drawn from."""

    natural = "natural"
    paper = "paper"
    uniform = "uniform"


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
    from kneegrade.training.train_grader import train_recipe

    with progress_bar("Training", quiet) as advance:
        done = train_recipe(recipe, output, settings or [], resume=resume, progress=advance)
    if not done:
        typer.echo("Stopped; the checkpoint is written. Continue with --resume.", err=True)
        raise typer.Exit(1)
    if not quiet:
        typer.echo(f"Wrote {output / 'weights.safetensors'} and its description.")


def store(
    manifest: Annotated[Path, typer.Argument(help="Parquet manifest with landmarks.")],
    output: OutputOption,
    widths: Annotated[float, typer.Option(min=0.5, max=5, help="Plateau widths that a picture spans.")] = 1.5,
    landmarks: Annotated[
        Path | None, typer.Option(help="Your own: folder of .pts files named like the films or barcodes, or COCO.")
    ] = None,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Cut the knees of a manifest into a store that training reads; knees without landmarks are looked for."""
    from kneegrade.anatomy import UserLandmarks
    from kneegrade.cohorts import load_manifest
    from kneegrade.training.build_dataset import build_dataset

    marked = None if landmarks is None else UserLandmarks(landmarks, unit.value, mirrored.value)
    with progress_bar("Cutting", quiet) as advance:
        bad = build_dataset(
            load_manifest(manifest), output, extent_in_plateau_widths=widths, marked=marked,
            workers=workers or os.cpu_count() or 1, progress=advance,
        )  # fmt: skip
    for line in bad:
        typer.echo(line, err=True)
    if bad:
        raise typer.Exit(1)


def phantom(
    output: OutputOption,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many films, or single knees.")] = 10,
    prevalence: Annotated[PrevalenceFlag, typer.Option(help="How common each grade is.")] = PrevalenceFlag.natural,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another seed, another population.")] = 0,
    films: Annotated[bool, typer.Option("--films", help="DICOM films and their truth (the default).")] = False,
    rois: Annotated[bool, typer.Option("--rois", help="One array of single knees, 320 px, and their truth.")] = False,
    store: Annotated[
        bool, typer.Option("--store", help="A store for `kneegrade train`; with --films, cut from whole films.")
    ] = False,
    widths: Annotated[float, typer.Option(min=0.5, max=5, help="Plateau widths that a store's picture spans.")] = 1.5,
    implants: Annotated[float, typer.Option(min=0, max=1, help="Share of knees with metal (films, rois).")] = 0.0,
    distractors: Annotated[float, typer.Option(min=0, max=1, help="Share of films without a knee.")] = 0.0,
    readers: Annotated[bool, typer.Option("--readers", help="Add a second reader's labels (films, rois).")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make synthetic radiographs with known truth."""
    if rois and (films or store):
        raise UsageError("--rois was given with --films or --store; choose one.")
    if (store and (implants or readers)) or (distractors and (store or rois)):
        raise UsageError("--implants and --readers go with films and rois, --distractors with films only.")
    with progress_bar("Rendering", quiet) as advance:
        if store:
            from kneegrade.training.phantom_datasets import build_film_dataset, build_phantom_dataset

            build = build_film_dataset if films else build_phantom_dataset
            build(output, number, prevalence.value, seed, extent_in_plateau_widths=widths, progress=advance)
        else:
            from kneegrade.phantom import Cohort, write_cohort

            kind: Literal["films", "rois"] = "rois" if rois else "films"
            cohort = Cohort(number, prevalence.value, seed, kind, implants, distractors, readers)
            write_cohort(output, cohort, advance)
