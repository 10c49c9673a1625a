"""`kneegrade evaluate`: labelled knees → metrics of a grader."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kneegrade.commands.options import (
    DetectOption,
    DeviceFlag,
    DeviceOption,
    JsonOption,
    OutputOption,
    QuietOption,
    WeightsOption,
    progress_bar,
)
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation.table_formats import Table


def evaluate(
    output: OutputOption,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Parquet manifest of labelled knees (`kneegrade cohort`).", show_default=False
        ),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Published cohort to use instead of a manifest: chen2018.", show_default=False
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder of that cohort (with train/, val/ or test/), or its zip file.",
            show_default=False,
        ),
    ] = None,
    weights: WeightsOption = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to evaluate on.")] = "test",
    detect: DetectOption = False,
    device: DeviceOption = DeviceFlag.auto,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Evaluate a grader on labelled knees.

    Every metric has a 95 % confidence interval (bootstrap over subjects). Writes metrics.json, the table as metrics.md,
    metrics.csv and metrics.tex, and predictions.parquet, which `compare` and `audit` read.
    """
    from kneegrade.evaluation.table_formats import markdown
    from kneegrade.files import prepare_output
    from kneegrade.training.predict import evaluate_manifest

    prepare_output(output)  # before the work, which can take hours
    with _labelled_knees(manifest, cohort, root) as table, progress_bar("Reading", quiet or as_json) as advance:
        result = evaluate_manifest(table, split, weights, detect=detect, device=device.value, progress=advance)
    about = {
        "weights": _identity(weights), "split": split, "landmarks_from": result.landmarks,
        "not_graded": len(result.left_out),
    }  # fmt: skip
    metrics, text = write_metrics(result.predictions, output, about)
    for line in result.left_out:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(text)
    elif not quiet:
        typer.echo(markdown(metrics))
        typer.echo(
            f"{len(result.predictions)} knees were graded, {len(result.left_out)} were not. "
            f"All metrics: {output / 'metrics.json'}"
        )


def write_metrics(predictions: "Predictions", output: Path, about: Mapping[str, Any]) -> "tuple[Table, str]":
    """Scores predictions and writes `predictions.parquet`, `metrics.json` and the table of metrics to a folder.

    Args:
        predictions: of one network.
        output: the folder; created if it does not exist.
        about: entries that precede the metrics in the JSON object.

    Returns:
        The table, and the JSON text.
    """
    from kneegrade.evaluation import SubjectBootstrap, as_json, score
    from kneegrade.evaluation.paper_tables import evaluation_table
    from kneegrade.evaluation.table_formats import write_table
    from kneegrade.files import write_text

    scores = score(predictions, SubjectBootstrap(predictions.subject))
    predictions.save(output / "predictions.parquet")
    text = json.dumps({**about, **as_json(scores, predictions)}, indent=1)
    write_text(output / "metrics.json", text + "\n")
    table = evaluation_table(scores, predictions)
    write_table(table, output)
    return table, text


def _identity(weights: Path | None) -> dict[str, str]:
    from kneegrade.weights import read_description, shipped_path, weights_reference

    return weights_reference(read_description(weights or shipped_path("grader")))


@contextmanager
def _labelled_knees(manifest: Path | None, cohort: str | None, root: Path | None) -> "Iterator[pd.DataFrame]":
    from kneegrade.cohorts import chen2018_folder, chen2018_manifest, load_manifest

    if (manifest is None) == (cohort is None):
        raise UsageError("Give either --manifest, or --cohort and --root.")
    if manifest is not None:
        yield load_manifest(manifest)
        return
    if cohort != "chen2018":
        raise UsageError(f"Cohort {cohort!r} is not known; --cohort takes chen2018. Use --manifest for other cohorts.")
    if root is None:
        raise UsageError("--cohort needs --root, the folder that contains train/, val/ or test/, or the zip file.")
    with chen2018_folder(root) as folder:
        yield chen2018_manifest(folder)
