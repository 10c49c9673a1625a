"""`kneegrade compare`: two sets of predictions → paired differences."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import JsonOption, predictions_file


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="FIRST", help="Predictions: the folder of a training run or of `evaluate`, or a Parquet file."
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Other predictions, for the same knees.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two sets of predictions for the same knees.

    Prints SECOND minus FIRST for every metric with its 95 % interval (paired bootstrap over subjects), and McNemar's
    test.
    """
    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation import compare as compare_predictions
    from kneegrade.evaluation.paper_tables import comparison_table
    from kneegrade.evaluation.table_formats import markdown

    differences = compare_predictions(
        Predictions.load(predictions_file(first)), Predictions.load(predictions_file(second))
    )
    if as_json:
        typer.echo(json.dumps({grade: difference.as_json() for grade, difference in differences.items()}, indent=1))
    else:
        typer.echo(markdown(comparison_table(differences)))
