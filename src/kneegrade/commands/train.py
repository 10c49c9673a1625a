"""`kneegrade train`: recipe → weights."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import OutputOption, QuietOption, SettingsOption, progress_bar


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="YAML file with the settings; the folder recipes/ has examples.")
    ],
    output: OutputOption,
    settings: SettingsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the output folder.")
    ] = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Train a grader or a landmark detector from a recipe."""
    from kneegrade.training.train_grader import train_recipe

    with progress_bar("Training", quiet) as advance:
        done = train_recipe(recipe, output, settings or [], resume=resume, progress=advance)
    if not done:
        typer.echo("Training was stopped; the checkpoint is written. Add --resume to continue.", err=True)
        raise typer.Exit(1)
    if not quiet:
        typer.echo(f"Wrote {output / 'weights.safetensors'} and its description.")
