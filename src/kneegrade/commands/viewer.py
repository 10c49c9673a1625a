"""`kneegrade viewer`: the reader's page on a folder of results."""

from pathlib import Path
from typing import Annotated

import typer

from kneegrade.commands.options import DetectorOption, WeightsOption
from kneegrade.commands.stop_signals import stop_signals
from kneegrade.errors import UsageError


def viewer(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that `kneegrade grade` or `kneegrade batch` wrote.")
    ],
    films: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", show_default="where they were graded",
            help="The films, if they were moved. May be repeated.",
        ),
    ] = None,
    readers: Annotated[
        list[str] | None,
        typer.Option(
            "--reader", metavar="NAME", show_default="the user",
            help="Name of a reader; repeat it for several, who get a link each.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="correct the results",
            help="Blind reading: results are hidden until the reader's grades are in, films come in random order, and "
            "some come twice.",
        ),
    ] = None,
    repeats: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Of a new study: share of the films to show twice.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of a new study: seed of the order.")] = 0,
    adjudicate: Annotated[
        bool, typer.Option("--adjudicate", help="With --study: decide where its readers differ.")
    ] = False,
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", show_default="column subject_id of the films' table, else one person per film",
            help="Regular expression whose first group in a film's name is the person.",
        ),
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write labels.csv, labels.parquet and readings.csv, and end.")
    ] = False,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: a free one.")] = 0,
    weights: WeightsOption = None,
    detector: DetectorOption = None,
) -> None:  # fmt: skip
    """Open the reader's page on a folder of results.

    Serves a page on this computer and prints its address, a link that works once: look at films, correct grades,
    landmarks and sides, sign, and read a study blind. Corrections are saved to DIR/reviews.jsonl at once. Ctrl-C ends
    the page and writes labels.csv, labels.parquet and readings.csv to DIR.

    Needs `pip install "kneegrade[serve]"`.
    """
    from kneegrade.server.blind_study import open_study
    from kneegrade.server.film_evidence import EvidenceService
    from kneegrade.server.folder_store import FolderStore
    from kneegrade.server.labels import label_notes, write_labels
    from kneegrade.server.local_page import serve_locally
    from kneegrade.server.reading import ReadingServices, require_fastapi
    from kneegrade.server.reading_desk import ReadingDesk
    from kneegrade.server.signature import FolderSignatures

    if adjudicate and study is None:
        raise UsageError("--adjudicate compares the readers of a study; give its name with --study.")
    store = FolderStore(directory, films or None, subject)
    if export:
        _print_written(write_labels(store, directory), label_notes(store, directory))
        return
    require_fastapi()
    keys = [film.key for film in store.worklist() if film.status != "failed"]
    chosen = None if study is None else open_study(directory, study, keys, repeats=repeats, seed=seed)
    desk = ReadingDesk(store, chosen, adjudicate)
    signed = FolderSignatures(directory, store.film, store.content)
    services = ReadingServices(desk, EvidenceService(weights, detector), directory, signed)
    names = _reader_names(readers or [])
    typer.echo(f"{len(store.worklist())} films of {directory}. Open this link; it works once. Ctrl-C ends the page.")
    with stop_signals():
        serve_locally(services, names, lambda reader, link: typer.echo(f"{reader}: {link}"), port)
    if any(review.reading.get("status") != "draft" for review in store.log.streams().values()):
        _print_written(write_labels(store, directory), label_notes(store, directory))


def _print_written(paths: list[Path], notes: list[str]) -> None:
    typer.echo(f"Wrote {', '.join(path.name for path in paths)} to {paths[0].parent}.")
    for note in notes:
        typer.echo(f"Note: {note}", err=True)


def _reader_names(given: list[str]) -> list[str]:
    """The readers' names; the user's if none was given."""
    from kneegrade.server.labels import MACHINE
    from kneegrade.server.review_log import ADJUDICATION

    names = list(dict.fromkeys(name.strip() for name in given)) or [_user_name()]
    for name in names:
        if not name or len(name) > 60 or name in (MACHINE, ADJUDICATION) or not name.isprintable():
            raise UsageError(f"{name!r} cannot be the name of a reader; use 1 to 60 printable characters.")
    return names


def _user_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the system has no entry of the user
        return "reader"
