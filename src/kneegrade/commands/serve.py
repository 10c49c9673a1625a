"""`kneegrade serve`: the DICOM node and the REST service; `kneegrade serve token`: a new token."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kneegrade.commands.options import listed
from kneegrade.commands.stop_signals import stop_count
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.server.demo import Demo

CONFIG = typer.Option("--config", "-c", metavar="FILE", help="Settings in TOML; --write-config writes an example.")
ConfigOption = Annotated[Path | None, CONFIG]


def serve(
    ctx: typer.Context,
    config: ConfigOption = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Serve on this computer only, with a temporary spool, a new token and synthetic films, and print the "
            "address.",
        ),
    ] = False,
    write_config: Annotated[
        Path | None,
        typer.Option(
            "--write-config", metavar="FILE", help="Write a commented example of the settings, and end.",
            show_default="none",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Receive films as a DICOM node and over REST, grade them, and deliver the results.

    Needs kneegrade[serve]. Films are kept in a spool until they are graded and their results delivered; `kneegrade
    spool` shows it. The service ends with Ctrl-C or SIGTERM, and loses no film that it has acknowledged.

    Exit code 0: stopped by a signal. 2: a setting is wrong, or a service could not start.
    """
    if ctx.invoked_subcommand is not None:
        return
    if [config is not None, demo, write_config is not None].count(True) != 1:
        raise UsageError("Give one of --config FILE, --demo and --write-config FILE.")
    if write_config is not None:
        _write_example(write_config)
    elif config is not None:
        _serve(config)
    else:
        _serve_demo()


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets the token; shown in the audit log.")],
    scopes: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Comma-separated: send (films), read (results), review (sign in the reader's page), metrics.",
        ),
    ] = "send,read",
    config: ConfigOption = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of tokens.", show_default="[rest] tokens of the settings"),
    ] = None,
) -> None:
    """Make a token for the REST service and print it once.

    The file gets the name, the scopes and the SHA-256 of the token. A running service reads it again at once; remove a
    line to withdraw a token.
    """
    from kneegrade.server.rest.tokens import add_token

    if (config is None) == (file is None):
        raise UsageError("Give one of --config FILE and --file FILE.")
    path = file if file is not None else _token_file(config)
    made = add_token(path, name, listed(scopes))
    typer.echo(made)
    typer.echo(f"kneegrade: Added {name} to {path}. The token above is not shown again.", err=True)


def _token_file(config: Path | None) -> Path:
    from kneegrade.server.settings import load_settings

    settings = load_settings(config or Path())
    if settings.rest is None:
        raise UsageError("The settings have no section [rest], so that there is no file of tokens; give --file FILE.")
    return settings.rest.tokens


def _write_example(path: Path) -> None:
    from kneegrade.files import write_text
    from kneegrade.server.settings import example_settings

    if path.exists():
        raise UsageError(f"{path} exists; choose another name, or remove the file.")
    write_text(path, example_settings())
    typer.echo(f"Wrote {path}. Make a token, then start the service:")
    typer.echo(f"  kneegrade serve token NAME --scopes send,read --config {path}")
    typer.echo(f"  kneegrade serve --config {path}")


def _serve(config: Path) -> None:
    from kneegrade.server.service_process import start_logging
    from kneegrade.server.settings import load_settings
    from kneegrade.server.settings_files import check_files
    from kneegrade.server.supervisor import Supervisor

    settings = load_settings(config)
    check_files(config, settings)
    start_logging(settings.log_level)
    with stop_count() as stop:
        supervisor = Supervisor(settings)
        log = logging.getLogger("kneegrade.server")
        if supervisor.url is not None:
            log.info("The REST service listens on %s.", supervisor.url)
        supervisor.run(lambda: stop.count > 0)


def _serve_demo() -> None:
    from kneegrade.server.demo import Demo
    from kneegrade.server.service_process import start_logging
    from kneegrade.server.supervisor import Supervisor

    with stop_count() as stop:
        demo = Demo()
        try:
            start_logging(demo.settings.log_level)
            supervisor = Supervisor(demo.settings)
            _introduce(demo, supervisor.url or "")
            demo.send_in_background(supervisor.url or "", _show_film)
            supervisor.run(lambda: stop.count > 0)
        finally:
            demo.close()


def _introduce(demo: "Demo", url: str) -> None:
    typer.echo(
        f"kneegrade serves at {url}\n"
        f"  token    {demo.token}\n"
        f"  settings {demo.directory / 'serve.toml'}\n"
        f"  viewer   {url}/viewer/ (asks for the token)\n"
        f"  manual   {url}/docs (any name, and the token as password)\n"
        f"  DICOM    {demo.title} at 127.0.0.1:{demo.dicom_port} (C-ECHO and C-STORE, from this computer)\n\n"
        "Send a film of your own and wait for its grades:\n"
        f'  curl -H "Authorization: Bearer {demo.token}" -H "Content-Type: application/dicom" \\\n'
        f'    -H "Prefer: wait=60" --data-binary @film.dcm {url}/v1/films\n\n'
        "Ctrl-C ends it and removes everything. Synthetic films are sent now:"
    )
    sys.stdout.flush()


def _show_film(state: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """One line about a film that was sent: its key, and the KL grade of each knee."""
    grades = [
        f"{knee['side'] or 'side unknown'}: KL {knee['grades']['kl']['grade']}" if knee["grades"] else "not gradable"
        for film in report.get("radiographs", ())
        for knee in film["knees"]
    ]
    problem = state.get("reason") or state.get("detail") or "not graded yet"
    typer.echo(f"  {state.get('key', '')}  {', '.join(grades) or problem}")
    sys.stdout.flush()
