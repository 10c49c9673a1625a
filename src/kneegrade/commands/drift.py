"""`kneegrade drift`: films of two sites → how they differ."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import (
    DeviceFlag,
    DeviceOption,
    JsonOption,
    OutputOption,
    QuietOption,
    WeightsOption,
    progress_bar,
)


def drift(
    images: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Films of the site: a folder, a manifest, a dataset, or the profile.parquet of an earlier call.",
        ),
    ],
    reference: Annotated[
        Path, typer.Option(metavar="PATH", help="Films to compare with: a folder, a manifest, a dataset or a profile.")
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    subject: Annotated[
        str,
        typer.Option(
            metavar="REGEX",
            help="For folders: regular expression whose first group in a film's file name is the subject."
        ),
    ] = "(.+)",
    device: DeviceOption = DeviceFlag.auto,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Measure how a site's films differ from reference films.

    Compares the network's features (can a classifier tell the two sites apart?) and the predicted grades. Writes
    drift.json, the table as drift.md, drift.csv and drift.tex, and a profile of each site for later calls.
    """
    from kneegrade.evaluation.table_formats import markdown, write_table
    from kneegrade.evaluation.two_sample import compare_profiles, drift_table
    from kneegrade.files import prepare_output, write_text
    from kneegrade.training.predict import site_profile

    prepare_output(output)
    with progress_bar("Reading", quiet or as_json) as advance:
        expected, left_out = site_profile(reference, weights, subject=subject, device=device.value, progress=advance)
        expected.save(output / "reference.parquet")
        site, site_left_out = site_profile(images, weights, subject=subject, device=device.value, progress=advance)
        site.save(output / "profile.parquet")
    found = compare_profiles(expected, site)
    counts = {"reference": len(left_out), "site": len(site_left_out)}
    text = json.dumps({**found.as_json(), "left_out": counts}, indent=1)
    write_text(output / "drift.json", text + "\n")
    table = drift_table(found)
    write_table(table, output)
    for line in (*left_out, *site_left_out):
        typer.echo(line, err=True)
    if as_json:
        typer.echo(text)
    elif not quiet:
        typer.echo(markdown(table))
