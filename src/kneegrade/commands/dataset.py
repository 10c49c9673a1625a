"""`kneegrade dataset`: manifest → training dataset of knee crops."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import (
    MirroredFlag,
    MirroredOption,
    OutputOption,
    QuietOption,
    UnitFlag,
    UnitOption,
    progress_bar,
)


def dataset(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Parquet manifest (`kneegrade cohort`).")],
    output: OutputOption,
    extent: Annotated[
        float,
        typer.Option(
            "--extent", "--widths", metavar="WIDTHS", min=0.5, max=5,
            help="Side length of a crop, in widths of the tibial plateau.",
        ),
    ] = 1.5,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default="those of the manifest, or detected",
            help="Landmarks to use: a folder of .pts files named like the films or their barcodes, or a COCO file.",
        ),
    ] = None,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of processes.", show_default="all cores")
    ] = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Crop the knees of a manifest into a training dataset.

    Landmarks are detected if the manifest does not contain them. After an interruption, run the command again to
    continue.

    Exit code 0: all knees are in the dataset. 1: some films could not be read or some knees were not found; they are
    listed. 2: wrong usage.
    """
    from kneegrade.anatomy import UserLandmarks
    from kneegrade.cohorts import load_manifest
    from kneegrade.files import prepare_output
    from kneegrade.training.build_dataset import build_dataset

    user_landmarks = None if landmarks is None else UserLandmarks(landmarks, unit.value, mirrored.value)
    table = load_manifest(manifest)
    prepare_output(output.resolve().parent)  # the dataset gets its own name when it is complete
    with progress_bar("Cropping", quiet) as advance:
        left_out = build_dataset(
            table, output, extent_in_plateau_widths=extent, marked=user_landmarks,
            workers=workers or os.cpu_count() or 1, progress=advance,
        )  # fmt: skip
    for line in left_out:
        typer.echo(line, err=True)
    if left_out:
        raise typer.Exit(1)
