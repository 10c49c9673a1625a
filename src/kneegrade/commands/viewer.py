"""`kneegrade viewer`: the reader's page on a folder of results."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

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
            metavar="REGEX", show_default="as last time, else column subject_id, else one person per film",
            help="Regular expression whose first group in a film's name is the person; none: forget it.",
        ),
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write labels.csv, labels.parquet and readings.csv, and end.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, show_default="as last time, else a free one", help="Port.")
    ] = 0,
    weights: WeightsOption = None,
    detector: DetectorOption = None,
) -> None:  # fmt: skip
    """Open the reader's page on a folder of results.

    Serves a page on this computer and prints its address, a link that works once: look at films, correct grades,
    landmarks and sides, sign, and read a study blind. Corrections are saved to DIR/reviews.jsonl at once. Ctrl-C ends
    the page and writes labels.csv, labels.parquet and readings.csv to DIR.

    Needs `pip install "kneegrade[serve]"`.
    """
    from kneegrade.server.reading.blind_study import open_study
    from kneegrade.server.reading.film_evidence import EvidenceService
    from kneegrade.server.reading.folder_store import FolderStore
    from kneegrade.server.reading.labels import label_notes, write_labels
    from kneegrade.server.reading.local_page import serve_locally
    from kneegrade.server.reading.page_files import require_fastapi
    from kneegrade.server.reading.page_settings import PageSettings
    from kneegrade.server.reading.reading_desk import ReadingDesk
    from kneegrade.server.reading.reading_routes import ReadingServices
    from kneegrade.server.reading.signature import FolderSignatures

    if adjudicate and study is None:
        raise UsageError("--adjudicate compares the readers of a study; give its name with --study.")
    if subject == "none":
        subject = ""
    store, settings = FolderStore(directory, films or None, subject), PageSettings.of(directory)
    if subject is not None:
        settings = replace(settings, subject=subject or None)
        settings.write(directory)
    if export:
        _print_written(write_labels(store, directory), label_notes(store, directory))
        return
    require_fastapi()
    names = _reader_names(readers or [])
    keys = [film.key for film in store.worklist() if film.status != "failed"]
    read_by = names if readers and not adjudicate else ()  # the user who only looks at the study is not waited for
    chosen = None if study is None else open_study(directory, study, keys, repeats=repeats, seed=seed, readers=read_by)
    desk = ReadingDesk(store, chosen, adjudicate)
    signed = FolderSignatures(directory, store.film, store.content)
    services = ReadingServices(desk, EvidenceService(weights, detector), directory, signed)
    typer.echo(f"{len(store.worklist())} films of {directory}. Open this link; it works once. Ctrl-C ends the page.")
    for one in desk.unfinished() if adjudicate else ():
        typer.echo(f"Note: {one['reader']} has read {one['done']} of {one['total']}.", err=True)

    def on_link(reader: str, link: str) -> None:
        typer.echo(f"{reader}: {link}")
        with suppress(UsageError):  # a folder that cannot be written can be looked at
            replace(settings, port=urlsplit(link).port or 0).write(directory)

    with stop_signals():
        serve_locally(services, names, on_link, port or _if_free(settings.port))
    if any(review.reading.get("status") != "draft" for review in store.log.streams().values()):
        _print_written(write_labels(store, directory), label_notes(store, directory))


def _if_free(port: int) -> int:
    """The port, or 0 if it is in use."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _print_written(paths: list[Path], notes: list[str]) -> None:
    typer.echo(f"Wrote {', '.join(path.name for path in paths)} to {paths[0].parent}.")
    for note in notes:
        typer.echo(f"Note: {note}", err=True)


def _reader_names(given: list[str]) -> list[str]:
    """The readers' names; the user's if none was given."""
    from kneegrade.server.reading.labels import MACHINE
    from kneegrade.server.reading.review_log import ADJUDICATION

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
