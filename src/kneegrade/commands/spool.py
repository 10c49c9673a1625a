"""`kneegrade spool`: what `kneegrade serve` received, graded and delivered, what is dead, and why."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import JsonOption
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.server.spool.film_spool import DeliveryRow, FilmRow, Spool

SHORT_KEY = 12  # characters of a key in lists; a beginning that occurs once is enough for the other commands


class StateFlag(StrEnum):
    """Values of `--state`."""

    received = "received"
    working = "working"
    graded = "graded"
    dead = "dead"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings of the service, which name the spool.")
]
SpoolOption = Annotated[Path | None, typer.Option("--spool", metavar="DIR", help="Folder of the spool.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Key of a film, or its beginning.")]


def ls(
    config: ConfigOption = None,
    spool: SpoolOption = None,
    state: Annotated[StateFlag | None, typer.Option(help="Only films in this state.", show_default="all")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="Highest number of films.")] = 50,
    accession: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Only films with this accession number.", show_default="any")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(metavar="ID", help="Only films of the patient with this ID.", show_default="any")
    ] = None,
    uid: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Only films whose SOP Instance UID begins so.", show_default="any"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the films, the last received first, with their state, and count those in each state.

    The index holds no patient data. --accession and --patient therefore read the header of each film, which takes time;
    what it contains is not shown. REASON is why a film, or one of its deliveries, failed.
    """
    from kneegrade.server.spool.spool_search import Wanted, find_films

    opened = _opened(config, spool)
    wanted = Wanted(accession, patient, uid)
    films = list(find_films(opened, wanted, None if state is None else state.value, limit))
    if as_json:
        typer.echo(json.dumps({"counts": opened.counts(), "films": [_film_facts(opened, one) for one in films]}))
        return
    _print_films(opened, films)
    counts = opened.counts()
    for what, numbers in counts.items():
        typer.echo(f"{what.capitalize()}: {', '.join(f'{number:,} {name}' for name, number in numbers.items())}")


def show(key: KeyArgument, config: ConfigOption = None, spool: SpoolOption = None, as_json: JsonOption = False) -> None:
    """Show a film: its state, its results and their deliveries, and why it or one of them failed."""
    opened = _opened(config, spool)
    film = _found(opened, key)
    if as_json:
        typer.echo(json.dumps(_film_facts(opened, film)))
        return
    folder = opened.results(film.key)
    results = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    rows = {
        "key": film.key, "state": film.state, "kind": film.kind, "sender": film.sender,
        "received": _moment(film.received), "attempts": film.attempts, "reason": film.reason or "",
        "finished": "" if film.finished is None else _moment(film.finished), "film": film.path,
        "results": folder if results else "", "": ", ".join(results),
    }  # fmt: skip
    for name, value in rows.items():
        if value != "":
            typer.echo(f"{name:<9} {value}")
    for one in opened.deliveries(film.key):
        reason = f": {one.reason}" if one.reason else ""
        typer.echo(f"delivery  {one.object} to {one.destination}: {one.state}, {one.attempts} attempts{reason}")


def retry(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Keys of films, or their beginnings.")] = None,
    config: ConfigOption = None,
    spool: SpoolOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All films and deliveries that failed.")] = False,
) -> None:
    """Try films and deliveries that are dead, or that wait for their next attempt, again at once."""
    if everything == bool(keys):
        raise UsageError("Give the keys of films, or --all.")
    opened = _opened(config, spool)
    number = opened.retry(None if everything else [_found(opened, key).key for key in keys or ()])
    typer.echo(f"{number:,} films and deliveries are tried again.")


def purge(
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Days since they were graded or given up.")
    ],
    config: ConfigOption = None,
    spool: SpoolOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also films that are not graded or not delivered yet.")
    ] = False,
) -> None:
    """Remove films with their results; `keep_days` in the settings does the same daily."""
    import getpass

    from kneegrade.server.spool.retention import purge_films

    number = purge_films(_opened(config, spool), days=older_than, by=getpass.getuser(), force=force)
    typer.echo(f"{number:,} films and their results were removed.")


def _opened(config: Path | None, directory: Path | None) -> "Spool":
    from kneegrade.server.spool.film_spool import Spool

    if (config is None) == (directory is None):
        raise UsageError("Give one of --config FILE and --spool DIR.")
    if config is not None:
        from kneegrade.server.settings import load_settings

        directory = load_settings(config).spool.directory
    if directory is None or not (directory / "spool.sqlite").is_file():
        raise UsageError(f"{directory} is no spool; give the directory of [spool], once `kneegrade serve` has made it.")
    return Spool(directory)


def _found(spool: "Spool", key: str) -> "FilmRow":
    """The film with a key or its beginning.

    Raises:
        UsageError: there is none, or more than one.
    """
    found, before = list["FilmRow"](), None
    while page := spool.films(limit=500, before=before):
        found += [film for film in page if film.key.startswith(key)]
        before = page[-1].key
    if not found or not key:
        raise UsageError(f"No film has the key {key!r}; `kneegrade spool ls` lists them.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} films have a key that begins with {key!r}; give more of it.")
    return found[0]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _print_films(spool: "Spool", films: "Sequence[FilmRow]") -> None:
    from rich.console import Console
    from rich.table import Table

    if not films:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("KEY", "RECEIVED", "STATE", "SENDER", "DELIVERIES", "REASON"):
        table.add_column(name, overflow="fold", no_wrap=name in ("KEY", "RECEIVED", "STATE"))
    for film in films:
        deliveries = spool.deliveries(film.key)
        table.add_row(
            film.key[:SHORT_KEY], _moment(film.received)[:19], film.state, film.sender,
            _delivery_counts(deliveries), film.reason or _delivery_reasons(deliveries),
        )  # fmt: skip
    Console(highlight=False, markup=False).print(table)


def _delivery_counts(rows: "Sequence[DeliveryRow]") -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(Counter(row.state for row in rows).items()))


def _delivery_reasons(rows: "Sequence[DeliveryRow]") -> str:
    """Why deliveries are dead or were not made yet: each destination with its reasons, without repetition."""
    failed = [row for row in rows if row.state != "sent" and row.reason]
    failed.sort(key=lambda row: row.state != "dead")
    return " ".join(dict.fromkeys(f"{row.destination}: {row.reason}" for row in failed))


def _film_facts(spool: "Spool", film: "FilmRow") -> dict[str, object]:
    """A film for a line of JSON."""
    folder = spool.results(film.key)
    return {
        "key": film.key, "state": film.state, "kind": film.kind, "sender": film.sender, "received": film.received,
        "finished": film.finished, "attempts": film.attempts, "reason": film.reason,
        "results": sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
        "deliveries": [
            {
                "object": one.object, "destination": one.destination, "state": one.state, "attempts": one.attempts,
                "reason": one.reason,
            }
            for one in spool.deliveries(film.key)
        ],
    }  # fmt: skip
