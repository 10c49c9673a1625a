"""`kneegrade agreement`: readings → agreement of readers with each other, with themselves and with kneegrade."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import JsonOption, QuietOption
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from kneegrade.evaluation.reader_agreement import PairAgreement


def agreement(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Folder that the reader's page was opened on, or its readings.csv."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", show_default="PATH, if it is a folder", help="Folder for the results."
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="the only one", help="Study whose readings are compared."),
    ] = None,
    replicates: Annotated[int, typer.Option(metavar="N", min=10, help="Number of bootstrap samples of people.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap.")] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Compare readers with each other, with themselves and with kneegrade.

    For each grade and pair of raters: quadratic-weighted kappa, share of equal grades, share at most one grade apart
    and mean difference, each with its 95 % interval (bootstrap over people). Writes agreement.csv, and
    disagreements.csv with the knees on which readers differ; `kneegrade viewer --adjudicate` shows these films.
    """
    from kneegrade.evaluation.reader_agreement import disagreements, pairwise_agreement
    from kneegrade.files import prepare_output
    from kneegrade.reporting import write_rows

    readings = _of_study(_readings(path), study)
    pairs = pairwise_agreement(readings, replicates, seed)
    folder = output or (path if path.is_dir() else path.parent)
    prepare_output(folder)
    rows = [pair.as_row() for pair in pairs]
    write_rows(
        list(rows[0]), [["" if v is None else v for v in row.values()] for row in rows], folder / "agreement.csv"
    )
    differing = disagreements(readings)
    cells = differing.astype(object).where(differing.notna(), "")
    write_rows(list(differing.columns), cells.itertuples(index=False, name=None), folder / "disagreements.csv")
    if as_json:
        typer.echo(json.dumps(rows))
    elif not quiet:
        _print_table(pairs)
        knees = differing[["film", "knee"]].drop_duplicates()
        typer.echo(f"Readers differ on {len(knees)} knees. Wrote agreement.csv and disagreements.csv to {folder}.")


def _readings(path: Path) -> "pd.DataFrame":
    import pandas as pd

    from kneegrade.evaluation.reader_agreement import checked_readings, load_readings

    if not path.is_dir():
        return load_readings(path)
    from kneegrade.server.folder_store import FolderStore
    from kneegrade.server.labels import READING_COLUMNS, reading_rows

    return checked_readings(pd.DataFrame(reading_rows(FolderStore(path)), columns=list(READING_COLUMNS)))


def _of_study(readings: "pd.DataFrame", study: str | None) -> "pd.DataFrame":
    """The readings of a study and those of kneegrade for the same films."""
    from kneegrade.server.labels import MACHINE
    from kneegrade.server.review_log import ADJUDICATION

    people = readings[~readings["reader"].isin([MACHINE, ADJUDICATION])]
    studies = sorted(people["study"].unique())
    if study is None and len(studies) > 1:
        names = ", ".join(name or "(none)" for name in studies)
        raise UsageError(f"The readings are of several studies ({names}); choose one with --study.")
    if study is not None and study not in studies:
        raise UsageError(
            f"There is no finished reading of the study {study!r}; studies: {', '.join(studies) or 'none'}."
        )
    chosen = people[people["study"] == (studies[0] if study is None and studies else study)]
    films = set(chosen["film"])
    machine = readings[(readings["reader"] == MACHINE) & readings["film"].isin(films)]
    import pandas as pd

    return pd.concat([chosen, machine], ignore_index=True)


def _print_table(pairs: "list[PairAgreement]") -> None:
    from rich.console import Console
    from rich.table import Table

    from kneegrade.reporting.report_labels import SHORT_LABELS

    table = Table(title=None, header_style="bold")
    for name in ("Grade", "Raters"):
        table.add_column(name)
    for name in ("Knees", "Kappa (95 %)", "Equal", "Within 1", "Difference"):
        table.add_column(name, justify="right")
    last = ""
    for pair in pairs:
        kappa, low, high = pair.kappa
        shown = "–" if kappa != kappa else f"{kappa:.2f} ({low:.2f} to {high:.2f})"
        table.add_row(
            SHORT_LABELS.get(pair.grade, "Gradable") if pair.grade != last else "", f"{pair.first} – {pair.second}",
            str(pair.knees), shown, f"{pair.accuracy[0]:.0%}", f"{pair.one_off_accuracy[0]:.0%}",
            f"{pair.difference[0]:+.2f}".replace("-", "−"),
        )  # fmt: skip
        last = pair.grade
    Console().print(table)
