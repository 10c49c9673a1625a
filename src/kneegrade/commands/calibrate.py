"""`kneegrade calibrate`: graded knees → weights with calibrated probabilities and prediction sets."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.evaluate import write_metrics
from kneegrade.commands.options import (
    DetectOption,
    DeviceFlag,
    DeviceOption,
    OutputOption,
    QuietOption,
    WeightsOption,
    progress_bar,
)


def calibrate(
    manifest: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Parquet manifest of labelled knees that the grader was not trained on."),
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the manifest to use.")] = "val",
    share: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.1, max=1,
            help="Approximate share of the subjects to fit on; the others are used to evaluate.",
        ),
    ] = 0.5,
    level: Annotated[
        float,
        typer.Option(
            metavar="LEVEL", min=0.5, max=0.99, help="Frequency with which prediction sets contain the true grade."
        ),
    ] = 0.9,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the division of the subjects.")] = 0,
    detect: DetectOption = False,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Fit a grader's probabilities and prediction sets.

    Temperatures and biases, joint decoding and prediction sets are fitted on a part of the subjects and evaluated on
    the others. Writes new weights and, if subjects are left, the files of `evaluate`.
    """
    from kneegrade.cohorts import load_manifest, rows_of_split
    from kneegrade.evaluation.table_formats import markdown
    from kneegrade.files import make_directory
    from kneegrade.training.fit import calibrate as fit_calibration

    table = rows_of_split(load_manifest(manifest), split)
    if detect:
        table = table.drop(columns=["landmarks_px", "landmark_confidence"], errors="ignore")
    make_directory(output)
    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        predictions, left_out = fit_calibration(
            table, path, weights, share=share, level=level, seed=seed, device=device.value, progress=advance
        )
    for line in left_out:
        typer.echo(line, err=True)
    for name in ("predictions.parquet", "metrics.json", "metrics.md", "metrics.csv", "metrics.tex"):
        (output / name).unlink(missing_ok=True)  # of an earlier call
    if predictions is not None:
        metrics, _ = write_metrics(predictions, output, {})
        if not quiet:
            typer.echo(markdown(metrics))
    if not quiet:
        typer.echo(f"Wrote {path} and its description.")
