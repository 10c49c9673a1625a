"""`kneegrade tables`: finished training runs → the paper's tables."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import OutputOption, QuietOption, progress_bar


def tables(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of `kneegrade train`, or folders that contain them.")
    ],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Write the paper's tables from finished training runs.

    The tables are written as Markdown, CSV and LaTeX, with the published values beside the new ones.
    """
    from kneegrade.evaluation.result_tables import write_tables

    with progress_bar("Scoring", quiet) as advance:
        written, left_out = write_tables(runs, output, progress=advance)
    for line in left_out:
        typer.echo(line, err=True)
    for path in written:
        typer.echo(path)
