"""Verbs that measure: `evaluate`, `compare`, `audit`, `tables`, `reproduce`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kneegrade.commands.shared import DeviceFlag, OutputOption, QuietOption, progress_bar, write_measures
from kneegrade.errors import UsageError


class ScaleFlag(StrEnum):
    """Size of the grid."""

    tiny = "tiny"
    small = "small"
    paper = "paper"


def evaluate(
    output: OutputOption,
    manifest: Annotated[Path | None, typer.Option(help="Parquet manifest of labelled knees.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Instead of a manifest: chen2018, as published.")] = None,
    root: Annotated[Path | None, typer.Option(help="Its folder (train/, val/, test/), or the zip archive.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A grader's weights; the shipped ones by default.")] = None,
    split: Annotated[str, typer.Option(help="Which of its knees.")] = "test",
    detect: Annotated[bool, typer.Option("--detect", help="Find landmarks, even if the manifest has some.")] = False,
    device: Annotated[DeviceFlag, typer.Option(help="Where the networks run.")] = DeviceFlag.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as one JSON object.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a grader on labelled knees: every metric with its 95 % interval by subject."""
    from kneegrade.evaluation.table_formats import markdown
    from kneegrade.training.predict import evaluate_manifest

    with _labelled(manifest, cohort, root) as table, progress_bar("Reading", quiet or as_json) as advance:
        result = evaluate_manifest(table, split, weights, detect=detect, device=device.value, progress=advance)
    about = {
        "weights": _identity(weights), "split": split, "landmarks_from": result.landmarks,
        "not_graded": len(result.left_out),
    }  # fmt: skip
    shown, text = write_measures(result.predictions, output, about)
    for line in result.left_out:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(text)
    elif not quiet:
        typer.echo(markdown(shown))
        typer.echo(
            f"{len(result.predictions)} knees, {len(result.left_out)} not graded. "
            f"All metrics: {output / 'metrics.json'}"
        )


def _identity(weights: Path | None) -> dict[str, str]:
    from kneegrade.weights import identity_of, read_description, shipped_path

    return identity_of(read_description(weights or shipped_path("grader")))


@contextmanager
def _labelled(manifest: Path | None, cohort: str | None, root: Path | None) -> Iterator[Any]:
    from kneegrade.cohorts import chen2018_folder, chen2018_manifest, load_manifest

    if (manifest is None) == (cohort is None):
        raise UsageError("Give either --manifest, or --cohort and --root.")
    if manifest is not None:
        yield load_manifest(manifest)
        return
    if cohort != "chen2018":
        raise UsageError(f"Cohort {cohort!r} is not known; chen2018 is.")
    if root is None:
        raise UsageError("--cohort needs --root, the folder that holds train/, val/ or test/, or the zip archive.")
    with chen2018_folder(root) as folder:
        yield chen2018_manifest(folder)


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder, or a file of predictions (`evaluate` leaves one).")],
    second: Annotated[Path, typer.Argument(help="The other, on the same knees.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Say how the second differs from the first: paired bootstrap over subjects, and McNemar's test."""
    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation import compare as compared
    from kneegrade.evaluation.paper_tables import comparison_table
    from kneegrade.evaluation.table_formats import markdown

    found = compared(Predictions.load(_predictions_in(first)), Predictions.load(_predictions_in(second)))
    if as_json:
        typer.echo(json.dumps({grade: comparison.as_json() for grade, comparison in found.items()}, indent=1))
    else:
        typer.echo(markdown(comparison_table(found)))


def audit(
    labels: Annotated[Path, typer.Argument(help="A manifest, or a table with the manifest's column names.")],
    output: OutputOption,
    predictions: Annotated[
        Path | None, typer.Option(help="Of a network that did not learn from these labels (`evaluate` leaves a file).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="The split that the predictions are of, if of one.")] = None,
    most: Annotated[int, typer.Option(min=0, help="Knees shown on the page.")] = 40,
    quiet: QuietOption = False,
) -> None:
    """List the knees whose human labels are worth a second look: audit.csv, audit.html; nothing is corrected."""
    from kneegrade.cohorts import load_labels
    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation.audit import audit_labels, audited_knees, of_whole_file
    from kneegrade.reporting import make_directory, write_audit, write_rows
    from kneegrade.training.build_dataset import knee_picture

    read = load_labels(labels)
    said = None if predictions is None else Predictions.load(_predictions_in(predictions))
    if said is not None and split is not None:
        said = of_whole_file(said, read, split)
    table = audit_labels(read, said)
    make_directory(output)
    shown = table.drop(columns="landmarks_px", errors="ignore")
    cells = shown.astype(object).where(shown.notna(), "")
    write_rows(list(shown.columns), cells.itertuples(index=False, name=None), output / "audit.csv")
    write_audit(audited_knees(table, most, knee_picture), len(table), output / "audit.html")
    if quiet:
        return
    counted = table["codes"].str.split(";").explode().value_counts()
    for code, number in counted[counted.index != ""].items():
        typer.echo(f"{number:6d}  {code}")
    broken = int((table["hard_rules"] > 0).sum())
    typer.echo(f"{len(table)} knees, {broken} break a hard rule. The oddest first: {output / 'audit.csv'}, audit.html")


def _predictions_in(path: Path) -> Path:
    """A file of predictions: the path itself, or what a run or an evaluation left in a folder."""
    found = [path / name for name in ("predictions-test.parquet", "predictions.parquet") if (path / name).is_file()]
    return found[0] if found else path


def tables(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `kneegrade train`, or folders of such.")],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Write the paper's tables from finished runs, as Markdown, CSV and LaTeX, with the paper's own figures."""
    from kneegrade.evaluation.result_tables import write_tables

    with progress_bar("Scoring", quiet) as advance:
        written, left_out = write_tables(runs, output, progress=advance)
    for line in left_out:
        typer.echo(line, err=True)
    for path in written:
        typer.echo(path)


def reproduce(
    output: OutputOption,
    scale: Annotated[ScaleFlag, typer.Option(help="tiny: minutes; small: hours on a CPU; paper: days on a GPU.")],
    cohort: Annotated[
        str, typer.Option(help="phantom: drawn here; or a store with splits (`kneegrade store`).")
    ] = "phantom",
    recipes: Annotated[
        list[str] | None, typer.Option("--recipe", help="Only these rows (names in recipes/paper).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs per row; the scale's by default.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value for every recipe.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Train every row of the paper's tables on one cohort, then write the tables; call again to go on."""
    from dataclasses import replace

    from kneegrade.evaluation.result_tables import write_tables
    from kneegrade.training.grid import SCALES
    from kneegrade.training.grid import reproduce as train_all

    plan = SCALES[scale.value]
    plan = replace(
        plan, recipes=tuple(recipes or plan.recipes), seeds=plan.seeds if seeds is None else tuple(range(seeds))
    )
    store = None if cohort == "phantom" else Path(cohort)
    if store is not None and not (store / "knees.npz").is_file():
        raise UsageError(f"{cohort} is neither `phantom` nor a store; `kneegrade store` makes one from a manifest.")

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    with progress_bar("Working", quiet) as advance:
        done = train_all(output, plan, store, settings or [], say=say, progress=advance, drawing=advance)
    if not done:
        typer.echo("Stopped; the checkpoint is written. The same command goes on.", err=True)
        raise typer.Exit(1)
    with progress_bar("Scoring", quiet) as advance:
        written, _ = write_tables([output], output / "tables", progress=advance)
    if not quiet:
        typer.echo(f"Wrote {len(written)} files to {output / 'tables'}.")
