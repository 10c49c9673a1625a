"""`kneegrade reproduce`: one cohort → trained models and tables of the paper."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import OutputOption, QuietOption, SettingsOption, progress_bar
from kneegrade.errors import UsageError


class ScaleFlag(StrEnum):
    """Values of `--scale`."""

    tiny = "tiny"
    small = "small"
    paper = "paper"


def reproduce(
    output: OutputOption,
    scale: Annotated[
        ScaleFlag,
        typer.Option(help="Size of the experiment: tiny takes minutes, small hours on a CPU, paper days on a GPU."),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", "--cohort", metavar="PATH",
            help="Dataset written by `kneegrade dataset`, or phantom to generate a cohort of phantoms.",
        ),
    ] = "phantom",
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe", metavar="NAME", show_default="those of the scale",
            help="Recipe in recipes/paper to train, without .yaml. May be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of runs of each recipe, with different seeds.",
            show_default="that of the scale",
        ),
    ] = None,
    settings: SettingsOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Train the paper's models and write its tables.

    After an interruption, run the same command again: finished runs are kept.
    """
    from kneegrade.evaluation.result_tables import write_tables
    from kneegrade.training.grid import SCALES
    from kneegrade.training.grid import reproduce as train_all

    plan = SCALES[scale.value]
    plan = replace(
        plan, recipes=tuple(recipes or plan.recipes), seeds=plan.seeds if seeds is None else tuple(range(seeds))
    )
    path = None if dataset == "phantom" else Path(dataset)
    if path is not None and not (path / "knees.npz").is_file():
        raise UsageError(f"{dataset} is neither `phantom` nor a dataset; create one with `kneegrade dataset`.")

    def log(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    with progress_bar("Working", quiet) as advance:
        done = train_all(output, plan, path, settings or [], log=log, progress=advance, drawing=advance)
    if not done:
        typer.echo("Training was stopped; the checkpoint is written. Run the same command again to continue.", err=True)
        raise typer.Exit(1)
    with progress_bar("Scoring", quiet) as advance:
        written, _ = write_tables([output], output / "tables", progress=advance)
    if not quiet:
        typer.echo(f"Wrote {len(written)} files to {output / 'tables'}.")
