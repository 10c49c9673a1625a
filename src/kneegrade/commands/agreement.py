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

    Shows quadratic-weighted kappa for each pair of raters. Writes agreement.csv with all measures of each grade (kappa,
    share of equal grades, share at most one grade apart, mean difference; 95 % intervals by a bootstrap over people,
    from 10 people on), and disagreements.csv with the knees on which readers differ; `kneegrade viewer --adjudicate`
    shows these films.
    """
    from kneegrade.evaluation.reader_agreement import MIN_PEOPLE, disagreements, pairwise_agreement
    from kneegrade.files import prepare_output
    from kneegrade.reporting import write_rows

    readings = _of_study(_readings(path), study)
    if path.is_dir() and not quiet:
        _print_waiting(path, set(readings["study"]))
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
        if any(pair.people < MIN_PEOPLE for pair in pairs):
            typer.echo(f"too few: fewer than {MIN_PEOPLE} people, so no interval.")
        knees = differing[["film", "knee"]].drop_duplicates()
        typer.echo(f"Readers differ on {len(knees)} knees. Wrote agreement.csv and disagreements.csv to {folder}.")


def _readings(path: Path) -> "pd.DataFrame":
    import pandas as pd

    from kneegrade.evaluation.reader_agreement import checked_readings, load_readings

    if not path.is_dir():
        return load_readings(path)
    from kneegrade.server.reading.folder_store import FolderStore
    from kneegrade.server.reading.labels import READING_COLUMNS, reading_rows

    return checked_readings(pd.DataFrame(reading_rows(FolderStore(path)), columns=list(READING_COLUMNS)))


def _print_waiting(folder: Path, studies: set[str]) -> None:
    """Say which readers of the study have not read all films that others have read."""
    from kneegrade.server.reading.folder_store import FolderStore
    from kneegrade.server.reading.standing_readings import waiting_films

    for (study, reader), films in waiting_films(FolderStore(folder)).items():
        if study in studies:
            typer.echo(f"Note: {reader} has not read {len(films)} films that others have read.", err=True)


def _of_study(readings: "pd.DataFrame", study: str | None) -> "pd.DataFrame":
    """The readings of a study and those of kneegrade for the same films."""
    from kneegrade.server.reading.labels import MACHINE
    from kneegrade.server.reading.review_log import ADJUDICATION

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
    """A row per pair of raters: KL with its interval and share of equal grades, and kappa of the other grades."""
    from rich.console import Console
    from rich.table import Table

    from kneegrade.reporting.report_labels import SHORT_LABELS
    from kneegrade.schema import TARGET_NAMES

    others = [name for name in TARGET_NAMES if name != "kl"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("Raters", overflow="fold")
    for name in ("n", "KL κ (95 %)", "equal", *(SHORT_LABELS[name] for name in others)):
        table.add_column(name, justify="right", no_wrap=True)
    by_raters: dict[tuple[str, str], dict[str, PairAgreement]] = {}
    for pair in pairs:
        by_raters.setdefault((pair.first, pair.second), {})[pair.grade] = pair
    for (first, second), own in by_raters.items():
        kl = own.get("kl")
        cells = ["", "–", ""] if kl is None else [str(kl.knees), _with_interval(kl), f"{kl.accuracy[0]:.0%}"]
        names = second if second.startswith(f"{first}, ") else f"{first} – {second}"
        table.add_row(names, *cells, *(_kappa(own[o]) if o in own else "–" for o in others))
    Console().print(table)
    typer.echo("n: knees with a KL grade of both. κ: quadratic-weighted kappa, – if undefined.")


def _kappa(pair: "PairAgreement") -> str:
    return "–" if pair.kappa[0] != pair.kappa[0] else f"{pair.kappa[0]:.2f}".replace("-", "−")


def _with_interval(pair: "PairAgreement") -> str:
    _, low, high = pair.kappa
    if low == low:
        return f"{_kappa(pair)} ({low:.2f} to {high:.2f})".replace("-", "−")
    from kneegrade.evaluation.reader_agreement import MIN_PEOPLE

    return f"{_kappa(pair)} (too few)" if pair.people < MIN_PEOPLE else _kappa(pair)
