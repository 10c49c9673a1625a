"""Verbs for a site's own films: `calibrate`, `gate`, `drift`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.shared import DeviceFlag, OutputOption, QuietOption, progress_bar, write_measures
from kneegrade.errors import RecipeError

ImagesOption = Annotated[Path, typer.Option(help="Films that nobody needs to have graded: folder, manifest or store.")]
SubjectOption = Annotated[
    str, typer.Option(help="Regular expression; its first group in a film's name is the person. Of folders.")
]
DeviceOption = Annotated[DeviceFlag, typer.Option(help="Where the networks run.")]
PeopleSeedOption = Annotated[int, typer.Option(min=0, help="Of the division of people.")]
WeightsOption = Annotated[Path | None, typer.Option(help="A grader's weights; the shipped ones by default.")]


def calibrate(
    manifest: Annotated[Path, typer.Option(help="Parquet manifest of graded knees that were not trained on.")],
    output: OutputOption,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option(help="Which of its knees.")] = "val",
    share: Annotated[
        float, typer.Option(min=0.1, max=1, help="Of the people to fit on, about; the rest is measured.")
    ] = 0.5,
    level: Annotated[float, typer.Option(min=0.5, max=0.99, help="How often a set is to hold the true grade.")] = 0.9,
    seed: PeopleSeedOption = 0,
    detect: Annotated[bool, typer.Option("--detect", help="Find landmarks, even if the manifest has some.")] = False,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:
    """Fit probabilities, coherent decoding and prediction sets of a grader on graded knees; measure them on others."""
    from kneegrade.cohorts import load_manifest
    from kneegrade.evaluation.table_formats import markdown
    from kneegrade.training.fit import calibrate as calibrated

    table = load_manifest(manifest)
    known = ", ".join(sorted(table["split"].unique()))
    table = table[table["split"] == split].reset_index(drop=True)
    if table.empty:
        raise RecipeError(f"{manifest.name} has no knee of split {split!r}; it has {known}.")
    if detect:
        table = table.drop(columns=["landmarks_px", "landmark_confidence"], errors="ignore")
    output.mkdir(parents=True, exist_ok=True)
    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        predictions, bad = calibrated(
            table, path, weights, share=share, level=level, seed=seed, device=device.value, progress=advance
        )
    for line in bad:
        typer.echo(line, err=True)
    for name in ("predictions.parquet", "metrics.json", "metrics.md", "metrics.csv", "metrics.tex"):
        (output / name).unlink(missing_ok=True)  # of an earlier call
    if predictions is not None:
        shown, _ = write_measures(predictions, output, {})
        if not quiet:
            typer.echo(markdown(shown))
    if not quiet:
        typer.echo(f"Wrote {path} and its description.")


def gate(
    manifest: Annotated[Path, typer.Option(help="Parquet manifest of sound films; split train says what is usual.")],
    phantoms: Annotated[Path, typer.Option(help="Folder of `kneegrade phantom --rois --implants 0.5`.")],
    output: OutputOption,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option(help="Other people of it, who say how far sound knees stray.")] = "val",
    share: Annotated[float, typer.Option(min=0.1, max=1, help="Of them, about; the rest is measured.")] = 0.5,
    refuse: Annotated[float, typer.Option(min=0, max=0.2, help="Share of sound knees that may be refused.")] = 0.01,
    seed: PeopleSeedOption = 0,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:
    """Teach a grader's weights which knees not to grade: unlike those learnt from, or with metal in them."""
    from kneegrade.cohorts import load_manifest
    from kneegrade.training.fit import fit_quality_control_on as gated

    table = load_manifest(manifest)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        found = gated(
            table, phantoms, path, weights, split=split, share=share, refuse=refuse, seed=seed, device=device.value,
            progress=advance,
        )  # fmt: skip
    if not quiet:
        typer.echo("\n".join(f"{name.replace('_', ' ')}: {value:g}" for name, value in found.items()))
        typer.echo(f"Wrote {path} and its description.")


def drift(
    images: ImagesOption,
    reference: Annotated[
        Path,
        typer.Option(help="What to compare with: folder of films, manifest, store, or an earlier profile.parquet."),
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    subject: SubjectOption = "(.+)",
    device: DeviceOption = DeviceFlag.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Say how a site's films differ from others, in what the network sees and in the grades that it gives."""
    from kneegrade.evaluation.table_formats import markdown, write_table
    from kneegrade.evaluation.two_sample import compare_profiles, drift_table
    from kneegrade.files import replacing
    from kneegrade.training.predict import site_profile

    output.mkdir(parents=True, exist_ok=True)
    with progress_bar("Reading", quiet or as_json) as advance:
        first, bad = site_profile(reference, weights, subject=subject, device=device.value, progress=advance)
        first.save(output / "reference.parquet")
        second, worse = site_profile(images, weights, subject=subject, device=device.value, progress=advance)
        second.save(output / "profile.parquet")
    found = compare_profiles(first, second)
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
