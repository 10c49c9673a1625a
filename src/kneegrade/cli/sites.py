"""Verbs for a site's own films: `adapt`, `drift`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.cli.shared import DeviceFlag, OutputOption, QuietOption, progress_bar

ImagesOption = Annotated[Path, typer.Option(help="Folder of films; nobody needs to have graded them.")]
WeightsOption = Annotated[Path | None, typer.Option(help="A grader's weights; the shipped ones by default.")]


def adapt(
    images: ImagesOption,
    output: OutputOption,
    weights: WeightsOption = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of graded knees of other people, best of the same site, that guard; else phantoms."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: steps, batch_size, learning_rate, lambda_gmm …")
    ] = None,
    device: Annotated[DeviceFlag, typer.Option(help="Where the networks run.")] = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:
    """Go on training a grader on unlabelled films, by coherence and consistency, as long as a guard allows it."""
    from kneegrade.learning.adapting import load_adaptation
    from kneegrade.sites import adapt as adapted

    with progress_bar("Adapting", quiet) as advance:
        result, bad = adapted(
            images, output, load_adaptation(settings or []), weights, labelled, device=device.value, progress=advance
        )
    for line in bad:
        typer.echo(line, err=True)
    first, best = result.guard[0][1], min(loss for _, loss in result.guard)
    stopped = f" The guard stopped it at step {result.steps}." if result.stopped else ""
    if not result.best_step:
        typer.echo(
            f"No step was better than the weights as they are ({first:.4f}).{stopped} Nothing was written.", err=True
        )
        raise typer.Exit(1)
    if not quiet:
        typer.echo(
            f"Negative log-likelihood of the guard's labels: {first:.4f} → {best:.4f} at step {result.best_step}."
            f"{stopped} Wrote {output / 'weights.safetensors'}."
        )


def drift(
    images: ImagesOption,
    reference: Annotated[
        Path,
        typer.Option(help="What to compare with: folder of films, manifest, store, or an earlier profile.parquet."),
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    device: Annotated[DeviceFlag, typer.Option(help="Where the networks run.")] = DeviceFlag.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Say how a site's films differ from others, in what the network sees and in the grades that it gives."""
    from kneegrade.evaluation.drift import compare_profiles, drift_table
    from kneegrade.evaluation.formats import markdown, write_table
    from kneegrade.files import replacing
    from kneegrade.sites import site_profile

    with progress_bar("Reading", quiet or as_json) as advance:
        first, bad = site_profile(reference, weights, device=device.value, progress=advance)
        second, worse = site_profile(images, weights, device=device.value, progress=advance)
    found = compare_profiles(first, second)
    output.mkdir(parents=True, exist_ok=True)
    second.save(output / "profile.parquet")
    text = json.dumps({**found.as_json(), "left_out": {"reference": len(bad), "site": len(worse)}}, indent=1)
    with replacing(output / "drift.json") as stream:
        stream.write(text + "\n")
    shown = drift_table(found)
    write_table(shown, output)
    for line in (*bad, *worse):
        typer.echo(line, err=True)
    if as_json:
        typer.echo(text)
    elif not quiet:
        typer.echo(markdown(shown))
