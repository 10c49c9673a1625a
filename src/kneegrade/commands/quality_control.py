"""`kneegrade quality-control`: normal films and phantoms → weights that refuse unsuitable knees."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import (
    DeviceFlag,
    DeviceOption,
    OutputOption,
    QuietOption,
    WeightsOption,
    progress_bar,
)


def quality_control(
    manifest: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Parquet manifest of normal films (no metal); those of split train define what is normal.",
        ),
    ],
    phantoms: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Phantoms with and without metal (`kneegrade phantom --rois --implants 0.5`)."
        ),
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Split with other subjects; the thresholds are set on it.")
    ] = "val",
    share: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.1, max=1,
            help="Approximate share of these subjects to fit on; the others are used to evaluate.",
        ),
    ] = 0.5,
    refuse: Annotated[
        float,
        typer.Option(
            "--refusal-rate", "--refuse", metavar="SHARE", min=0, max=0.2,
            help="Share of normal knees that may be refused as unlike the training data.",
        ),
    ] = 0.01,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the division of the subjects.")] = 0,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Fit the detection of knees that must not be graded.

    A knee is refused if it differs too much from the training knees (out of distribution) or seems to contain metal.
    The films need no grades. Writes new weights.
    """
    from kneegrade.cohorts import load_manifest
    from kneegrade.files import make_directory
    from kneegrade.training.fit import quality_control_from_manifest

    table = load_manifest(manifest)
    make_directory(output)
    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        measured = quality_control_from_manifest(
            table, phantoms, path, weights, split=split, share=share, refuse=refuse, seed=seed, device=device.value,
            progress=advance,
        )  # fmt: skip
    if not quiet:
        typer.echo("\n".join(f"{name.replace('_', ' ')}: {value:g}" for name, value in measured.items()))
        typer.echo(f"Wrote {path} and its description.")
