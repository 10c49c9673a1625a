"""`kneegrade audit`: human labels → list of the knees to read again."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import OutputOption, QuietOption, predictions_file


def audit(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Manifest, or CSV table with the manifest's column names.")
    ],
    output: OutputOption,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default="labels alone",
            help="Predictions of a network that was not trained on these labels: the output folder of `evaluate`, or a "
            "file.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="all knees",
            help="Split of LABELS that the predictions were made for; used only with --predictions.",
        ),
    ] = None,
    max_knees: Annotated[
        int, typer.Option("--max-knees", "--most", metavar="N", min=0, help="Number of knees shown in audit.html.")
    ] = 40,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """List the knees whose labels should be checked.

    Lists labels that rarely occur together, contradict other visits or measured joint space widths, or are contradicted
    by predictions. Writes audit.csv (all knees, the most unusual first) and audit.html. No label is changed.
    """
    from kneegrade.cohorts import load_labels
    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation.audit import audit_labels, audited_knees, with_rows_of_whole_file
    from kneegrade.files import prepare_output
    from kneegrade.reporting import write_audit, write_rows
    from kneegrade.training.build_dataset import knee_picture

    read = load_labels(labels)
    predicted = None if predictions is None else Predictions.load(predictions_file(predictions))
    if predicted is not None and split is not None:
        predicted = with_rows_of_whole_file(predicted, read, split)
    table = audit_labels(read, predicted)
    prepare_output(output)
    columns = table.drop(columns="landmarks_px", errors="ignore")
    cells = columns.astype(object).where(columns.notna(), "")
    write_rows(list(columns.columns), cells.itertuples(index=False, name=None), output / "audit.csv")
    write_audit(audited_knees(table, max_knees, knee_picture), len(table), output / "audit.html")
    if quiet:
        return
    counts = table["codes"].str.split(";").explode().value_counts()
    for code, number in counts[counts.index != ""].items():
        typer.echo(f"{number:6d}  {code}")
    broken = int((table["hard_rules"] > 0).sum())
    typer.echo(f"{len(table)} knees, {broken} break a hard rule. Wrote {output / 'audit.csv'} and audit.html.")
