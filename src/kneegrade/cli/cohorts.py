"""`kneegrade cohort …`: labelled tables and folders → a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.cli.shared import (
    MirroredFlag,
    MirroredOption,
    QuietOption,
    SpacingOption,
    UnitFlag,
    UnitOption,
    progress_bar,
    spacing_of,
)

if TYPE_CHECKING:
    import pandas as pd


ManifestOption = Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")]


def chen2018(
    root: Annotated[Path, typer.Argument(help="Unpacked folder that holds train/, val/ or test/.")],
    output: ManifestOption,
    soft_labels: Annotated[Path | None, typer.Option(help="Parquet table of predicted landmarks and grades.")] = None,
    landmarks: Annotated[Path | None, typer.Option(help="Folder of .pts files that replace those landmarks.")] = None,
    image_only: Annotated[bool, typer.Option(help="Soft labels of the image alone, without the published KL.")] = False,
) -> None:
    """Manifest of the Chen 2018 crops (Mendeley Data, doi 10.17632/56rmx5bjcr.1, CC BY 4.0)."""
    from kneegrade.cohorts import chen2018_manifest

    _write(chen2018_manifest(root, soft_labels, given_kl=not image_only, landmarks=landmarks), output)


def pts(
    films: Annotated[Path, typer.Argument(help="Folder of films.")],
    landmarks: Annotated[Path, typer.Argument(help="Folder of .pts files named like the films, or COCO keypoints.")],
    output: ManifestOption,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    spacing: SpacingOption = None,
    subject: Annotated[str, typer.Option(help="Regular expression; its first group in a name is the person.")] = "(.+)",
    split: Annotated[str, typer.Option(help="Split of all films.")] = "train",
    quiet: QuietOption = False,
) -> None:
    """Manifest of your own films with landmarks, to train the detector on."""
    from kneegrade.anatomy import MarkedPoints
    from kneegrade.cohorts import marked_manifest

    marked = MarkedPoints(landmarks, unit.value, mirrored.value)
    with progress_bar("Reading", quiet) as advance:
        table, bad = marked_manifest(
            films, marked, subject, split, pixel_spacing_mm=spacing_of(spacing), progress=advance
        )
    for line in bad:
        typer.echo(line, err=True)
    _write(table, output)


def _write(table: "pd.DataFrame", output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".tmp")
    table.to_parquet(partial)
    partial.replace(output)
    typer.echo(f"{len(table)} knees of {table['subject_id'].nunique()} people in {output}")
