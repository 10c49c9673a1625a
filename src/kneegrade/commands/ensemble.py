"""`kneegrade ensemble`: several trained networks → one weights file that averages them."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import OutputOption, QuietOption


def ensemble(
    weights: Annotated[
        list[Path], typer.Argument(metavar="WEIGHTS...", help="Two or more weights files of single grading networks.")
    ],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Combine networks into an ensemble.

    The ensemble averages the logits and the evidence of its members. It has neither calibration nor quality control:
    run `kneegrade quality-control` and `kneegrade calibrate` on it.
    """
    from kneegrade.files import prepare_output
    from kneegrade.training.combine_weights import combine_weights

    prepare_output(output)
    path = output / "weights.safetensors"
    combine_weights(weights, path)
    if not quiet:
        typer.echo(f"Wrote {path} and its description.")
