"""The command line: one function per verb; a stage is imported only when its verb runs."""

import sys
from collections.abc import Callable

import typer

from kneegrade.commands import cohort, grading, measuring, sites, training
from kneegrade.errors import KneeGradeError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Kellgren-Lawrence and OARSI grades of plain knee radiographs. Research use, not a medical device.",
)  # fmt: skip
VERBS: tuple[Callable[..., None], ...] = (
    grading.grade, grading.landmarks, grading.info, training.train, training.store, training.phantom,
    measuring.evaluate, measuring.compare, measuring.audit, measuring.tables, measuring.reproduce,
    sites.calibrate, sites.drift, sites.gate,
)  # fmt: skip
COHORTS: tuple[Callable[..., None], ...] = (
    cohort.oai, cohort.most, cohort.chen2018, cohort.phantom, cohort.csv, cohort.pts, cohort.fake_oai,
    cohort.fake_most,
)  # fmt: skip
cohort_app = typer.Typer(no_args_is_help=True, help="Turn a labelled cohort into a manifest.")
for verb in VERBS:
    app.command()(verb)
for verb in COHORTS:
    cohort_app.command()(verb)
app.add_typer(cohort_app, name="cohort")


def main() -> None:
    """Entry point: a KneeGradeError becomes one sentence and exit code 2."""
    try:
        app()
    except KneeGradeError as error:
        typer.echo(f"kneegrade: {error.message}", err=True)
        sys.exit(2)
