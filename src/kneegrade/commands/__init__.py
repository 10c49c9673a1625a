"""The command line `kneegrade`: one module per command, which parses options, calls a function and prints.

`COMMANDS` lists them in the groups in which `kneegrade --help` shows them. A command imports what it runs when it is
called, so that `--help` is fast.
"""

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from kneegrade.commands import (
    agreement,
    audit,
    batch,
    calibrate,
    cohort,
    compare,
    dataset,
    drift,
    ensemble,
    evaluate,
    grade,
    info,
    landmarks,
    phantom,
    quality_control,
    reproduce,
    serve,
    share,
    spool,
    sr,
    tables,
    train,
    viewer,
)
from kneegrade.commands.output_pipes import ending_with_reader
from kneegrade.errors import KneeGradeError, UsageError
from kneegrade.terminal_text import HANDLER
from kneegrade.version import __version__


class Group(TyperGroup):
    """A command with subcommands, whose help wraps a long summary instead of cutting it off."""

    def sections(self, ctx: Any) -> Mapping[str, Iterable[str]]:
        """Heading → names of the subcommands that the help lists below it."""
        return {"Commands": self.list_commands(ctx)}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list of subcommands, one section per heading."""
        for heading, names in self.sections(ctx).items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in commands if command])


cohort_app = typer.Typer(cls=Group, no_args_is_help=True, help="Build a manifest from a cohort of films.")
for verb in (
    cohort.oai, cohort.most, cohort.chen2018, cohort.phantom, cohort.csv, cohort.pts, cohort.fake_oai,
    cohort.fake_most,
):  # fmt: skip
    cohort_app.command()(verb)

sr_app = typer.Typer(cls=Group, no_args_is_help=True, help="Read DICOM structured reports of kneegrade.")
sr_app.command()(sr.read)

serve_app = typer.Typer(cls=Group, invoke_without_command=True)
serve_app.callback()(serve.serve)
serve_app.command()(serve.token)

spool_app = typer.Typer(cls=Group, no_args_is_help=True, help="Show and manage the films of `kneegrade serve`.")
for spool_verb in (spool.ls, spool.show, spool.retry, spool.purge):
    spool_app.command()(spool_verb)

COMMANDS: Final[dict[str, dict[str, Callable[..., None] | typer.Typer]]] = {
    "Grade": {
        "grade": grade.grade, "batch": batch.batch, "landmarks": landmarks.landmarks, "share": share.share,
        "sr": sr_app, "info": info.info,
    },
    "Serve": {"serve": serve_app, "spool": spool_app, "viewer": viewer.viewer},
    "Cohorts": {
        "cohort": cohort_app, "dataset": dataset.dataset, "phantom": phantom.phantom, "audit": audit.audit,
        "drift": drift.drift,
    },
    "Train": {
        "train": train.train, "ensemble": ensemble.ensemble, "calibrate": calibrate.calibrate,
        "quality-control": quality_control.quality_control,
        "reproduce": reproduce.reproduce,
    },
    "Evaluate": {
        "evaluate": evaluate.evaluate, "compare": compare.compare, "tables": tables.tables,
        "agreement": agreement.agreement,
    },
}  # fmt: skip
SUCCESSORS: Final = {
    "store": "`kneegrade store` was renamed; use `kneegrade dataset`.",
    "gate": "`kneegrade gate` was renamed; use `kneegrade quality-control`.",
    "adapt": "`kneegrade adapt` was removed; use `kneegrade calibrate`.",
}


class Program(Group):
    """The command `kneegrade`: `COMMANDS`, `SUCCESSORS`, and exit code 2 for every error that the user can correct."""

    def sections(self, ctx: Any) -> Mapping[str, Iterable[str]]:
        """The groups of `COMMANDS`."""
        return COMMANDS

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` name; raises `UsageError` for a removed or renamed one and for empty arguments."""
        for argument in args:
            if not argument or (argument.startswith("--") and argument.endswith("=") and argument.count("=") == 1):
                raise UsageError(
                    f"An argument is empty ('{argument}'); expected a path or a value. A shell variable that is not "
                    "set is a common cause. For the current folder, give '.'."
                )
        if args and args[0] in SUCCESSORS:
            raise UsageError(SUCCESSORS[args[0]])
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """The context of the command; Ctrl-C during the parsing prints a message and exits with 130."""
        try:
            return super().make_context(*args, **settings)
        except KeyboardInterrupt:
            _say("The command was interrupted.")
            raise typer.Exit(130) from None

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; an error that the user can correct becomes one sentence and exit code 2."""
        try:
            return super().invoke(ctx)
        except KneeGradeError as error:
            _say(error.message)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            _say("The command was interrupted.")
            raise typer.Exit(130) from None
        except OSError as error:
            _say(
                f"{error.filename or 'A file'} could not be read or written ({error.strerror or error}); "
                "check the path, its permissions and the free space."
            )
            raise typer.Exit(2) from error


def _say(sentence: str) -> None:
    """Print a sentence on standard error; without one, for example on a full disk, the exit code has to do."""
    try:
        typer.echo(f"kneegrade: {sentence}", err=True)
    except OSError:
        sys.stderr = None  # Python would end with exit code 120 when it flushes the rest


app = typer.Typer(
    cls=Program, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
for verbs in COMMANDS.values():
    for name, command in verbs.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kneegrade {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Grade knee osteoarthritis on plain radiographs (Kellgren-Lawrence, OARSI).

    Research use, not a medical device.
    """


def main() -> None:
    """Entry point of the command `kneegrade`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)  # a terminal that cannot show "±" must not end a run
    sys.stdout, sys.stderr = ending_with_reader(sys.stdout), ending_with_reader(sys.stderr)
    app(prog_name="kneegrade")
