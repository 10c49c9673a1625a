"""`kneegrade quality-control`: normal films and phantoms → weights that find unusual knees and refuse metal."""

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
    finding_rate: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.001, max=0.2, help="Share of normal knees that may have a finding."),
    ] = 0.02,
    refusal_rate: Annotated[
        float | None, typer.Option("--refusal-rate", "--refuse", hidden=True, help="Removed; see --finding-rate.")
    ] = None,
    other_site: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", show_default="none",
            help="Folder of films of another hospital, or a manifest, without metal; the detection of metal is trained "
            "on them too. May be repeated.",
        ),
    ] = None,
    with_metal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default="none",
            help="CSV file with a column path: ends of the paths of films with metal, which are left out.",
        ),
    ] = None,
    implants: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default="train a new one",
            help="Weights from which to take the detection of metal: of a grader, or of kind implants.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the division of the subjects.")] = 0,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Fit the detection of unusual knees and of metal.

    A knee with certain metal is refused. A knee that differs from the training knees (out of distribution) or may
    contain metal is graded with a finding and wider prediction sets. The films need no grades. Writes new weights.
    """
    from kneegrade.cohorts import load_manifest
    from kneegrade.errors import UsageError
    from kneegrade.files import prepare_output
    from kneegrade.training.fit import quality_control_from_manifest
    from kneegrade.training.metal.implant_sites import read_paths, site_manifest

    if refusal_rate is not None:
        raise UsageError(
            "--refusal-rate was removed: knees unlike the training knees are no longer refused, they have a finding. "
            "Use --finding-rate to choose how many normal knees may have one."
        )
    if implants is not None and other_site:
        raise UsageError(
            "--other-site adds films to train the detection of metal on, but with --implants it is not trained. Leave "
            "out one of the two."
        )
    table = load_manifest(manifest)
    prepare_output(output)
    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        measured = quality_control_from_manifest(
            table, phantoms, path, weights, split=split, share=share, warn=finding_rate,
            other_sites=[site_manifest(site, advance) for site in other_site or ()],
            with_metal=read_paths(with_metal) if with_metal else (), implants=implants, seed=seed, device=device.value,
            progress=advance,
        )  # fmt: skip
    if not quiet:
        typer.echo("\n".join(f"{name.replace('_', ' ')}: {value:g}" for name, value in measured.items()))
        typer.echo(f"Wrote {path} and its description.")
