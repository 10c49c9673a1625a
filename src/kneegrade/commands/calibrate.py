"""`kneegrade calibrate`: graded knees → weights with calibrated probabilities and prediction sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

RESULTS = (
    "predictions.parquet", "metrics.json", "metrics.md", "metrics.csv", "metrics.tex", "scales.md", "scales.csv",
    "scales.tex", "prevalences.json",
)  # fmt: skip
LONGEST_NAME = 60


def calibrate(
    manifest: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Parquet manifest of labelled knees that the grader was not trained on."),
    ],
    output: OutputOption,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the manifest to use.")] = "val",
    site: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Keep the calibration and fit the scale of this site's reader on top, on all knees (50 or more).",
            show_default="fit the calibration itself, on 100 or more graded knees",
        ),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="With --site and --reference: correct for the site's prevalences instead, without labels.",
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="For --unlabelled: films of the study, as for `drift --reference`.", show_default=False
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", min=0.1, max=1,
            help="Without --site: approximate share of the subjects to fit on; the others are used to evaluate.",
            show_default="0.5",
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            metavar="LEVEL", min=0.5, max=0.99, help="Frequency with which prediction sets contain the true grade.",
            show_default="0.9; with --site, that of the weights",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the division of the subjects, or of the folds.")
    ] = 0,
    detect: DetectOption = False,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Fit a grader's probabilities and prediction sets, or the scale of a site's reader.

    Without --site, for the study that a network learnt from, after training: temperatures and biases, joint decoding
    and prediction sets are fitted on a part of the subjects and evaluated on the others.

    With --site, for a hospital with 50, 100 or 200 knees that its reader has graded (KL alone suffices): the weights
    keep their calibration, and a map from the study's scale to the reader's is fitted on all knees. The results are
    cross-fitted by subject. Reports then show both scales.

    Writes new weights and, if subjects are left, the files of `evaluate`.
    """
    from kneegrade.cohorts import load_manifest, rows_of_split
    from kneegrade.files import prepare_output

    _check_options(site, unlabelled, reference, share)
    table = rows_of_split(load_manifest(manifest), split)
    if detect:
        table = table.drop(columns=["landmarks_px", "landmark_confidence", "pixel_aspect"], errors="ignore")
    prepare_output(output)
    for name in RESULTS:
        (output / name).unlink(missing_ok=True)  # of an earlier call
    if site is None:
        _fit_study(table, output, weights, 0.5 if share is None else share, level or 0.9, seed, device.value, quiet)
    elif unlabelled and reference is not None:
        _fit_prevalence(table, reference, output, weights, site, seed, device.value, quiet)
    else:
        _fit_site(table, output, weights, site, level, seed, device.value, quiet)
    if not quiet:
        typer.echo(f"Wrote {output / 'weights.safetensors'} and its description.")


def _check_options(site: str | None, unlabelled: bool, reference: Path | None, share: float | None) -> None:
    if site is not None and share is not None:
        raise UsageError(
            "--share divides the subjects for a calibration without --site; with --site all knees are fitted on, and "
            "the results are cross-fitted. Leave out --share."
        )
    if unlabelled != (reference is not None) or (unlabelled and site is None):
        raise UsageError("--unlabelled needs --site NAME and --reference PATH, and --reference needs --unlabelled.")
    if site is not None and not (0 < len(site) <= LONGEST_NAME and site.isprintable()):
        raise UsageError(f"--site takes a name of 1 to {LONGEST_NAME} printable characters.")


def _fit_study(
    table: "pd.DataFrame", output: Path, weights: Path | None, share: float, level: float, seed: int, device: str,
    quiet: bool,
) -> None:  # fmt: skip
    from kneegrade.evaluation.table_formats import markdown
    from kneegrade.training.fit import calibrate as fit_calibration

    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        predictions, left_out = fit_calibration(
            table, path, weights, share=share, level=level, seed=seed, device=device, progress=advance
        )
    for line in left_out:
        typer.echo(line, err=True)
    if predictions is not None:
        metrics, _ = write_metrics(predictions, output, {})
        if not quiet:
            typer.echo(markdown(metrics))


def _fit_site(
    table: "pd.DataFrame", output: Path, weights: Path | None, site: str, level: float | None, seed: int, device: str,
    quiet: bool,
) -> None:  # fmt: skip
    from kneegrade.evaluation.site_table import scale_measures, scales_table
    from kneegrade.evaluation.table_formats import markdown, write_table
    from kneegrade.schema import TARGETS
    from kneegrade.training.fit_site import calibrate_to_site

    path = output / "weights.safetensors"
    with progress_bar("Reading", quiet) as advance:
        found = calibrate_to_site(
            table, path, weights, site=site, level=level, seed=seed, device=device, progress=advance
        )
    for line in found.left_out:
        typer.echo(line, err=True)
    maps = {name: one.family for name, one in found.scale.maps.items()}
    study = {target.name: scale_measures(found.study, target) for target in TARGETS if target.name in maps}
    about = {"site": site, "maps": maps, "cross_fitted": True, "study_scale": study}
    metrics, _ = write_metrics(found.site, output, about)
    scales = scales_table(found.study, found.site, maps, site)
    write_table(scales, output)
    if not quiet:
        typer.echo(markdown(metrics))
        typer.echo(markdown(scales))


def _fit_prevalence(
    table: "pd.DataFrame", reference: Path, output: Path, weights: Path | None, site: str, seed: int, device: str,
    quiet: bool,
) -> None:  # fmt: skip
    import json

    from kneegrade.files import write_text
    from kneegrade.training.fit_site import correct_prevalence
    from kneegrade.training.predict import site_profile

    with progress_bar("Reading", quiet) as advance:
        expected, _ = site_profile(reference, weights, device=device, progress=advance)
        profile, left_out = site_profile(table, weights, device=device, progress=advance)
    for line in left_out:
        typer.echo(line, err=True)
    shares = correct_prevalence(profile, expected, output / "weights.safetensors", weights, site=site, seed=seed)
    write_text(output / "prevalences.json", json.dumps(shares, indent=1) + "\n")
    if not quiet:
        typer.echo("KL at the site: " + ", ".join(f"{k}: {share:.2f}" for k, share in enumerate(shares["kl"])))
