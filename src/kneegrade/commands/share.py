"""`kneegrade share`: films and results without the patient."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import (
    DetectorOption,
    DeviceFlag,
    DeviceOption,
    InputsArgument,
    OutputOption,
    QuietOption,
    WeightsOption,
    progress_bar,
    report_and_object_formats,
    sources_in,
)
from kneegrade.commands.stop_signals import stop_signals
from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from kneegrade.clinical.sharing import SharedFilm


def share(
    inputs: InputsArgument,
    output: OutputOption,
    secret: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The site's secret, from which pseudonyms are computed; created if it does not exist. Keep it, and "
            "do not share it.",
        ),
    ],
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Comma-separated formats of the results, as of grade.")
    ] = "json,html,csv,sr,gsps,sc,fhir",
    whole_film: Annotated[
        bool,
        typer.Option(
            "--whole-film", help="Keep the pixels outside the knees of films that declare that no text is burned in."
        ),
    ] = False,
    weights: WeightsOption = None,
    detector: DetectorOption = None,
    device: DeviceOption = DeviceFlag.auto,
    quiet: QuietOption = False,
) -> None:
    """Write films and their results without the patient.

    Writes each film anew from a list of harmless attributes: pseudonyms replace IDs and UIDs, there are no dates, and
    the pixels outside the knees are black. The results are those of the shared films. Look at the films before you
    publish them: text next to a knee is not recognised.

    Exit code 0: every film was shared. 1: a film was not shared. 2: wrong usage. 130, 143, 129: stopped by Ctrl-C,
    SIGTERM or SIGHUP.
    """
    from kneegrade.clinical.pseudonyms import Pseudonyms, read_secret
    from kneegrade.files import locked_output, prepare_output

    reports, objects = report_and_object_formats(formats)
    sources = sources_in(inputs)
    if secret.absolute().is_relative_to(output.absolute()):
        raise UsageError("The secret is inside the output folder and would be shared with it; choose another path.")
    if any(one.is_dir() and output.resolve().is_relative_to(one.resolve()) for one in inputs):
        raise UsageError(
            "The output folder is inside an input folder: the next run would read the shared films as further films, "
            "and films with and without the patient would lie side by side. Choose another folder."
        )
    prepare_output(output)
    pseudonyms = Pseudonyms(read_secret(secret))
    from kneegrade.clinical.sharing import share as share_films
    from kneegrade.grader import Grader

    grader = Grader(device.value, weights, detector=detector)
    bar = progress_bar("Sharing", quiet or len(sources) < 2)
    with stop_signals(), locked_output(output), bar as advance:
        films = share_films(
            sources, output, grader, pseudonyms, formats=(*reports, *objects), whole_film=whole_film, progress=advance
        )
    _print(films, output, quiet=quiet)
    if not films or any(film.path is None for film in films):
        raise typer.Exit(1)


def _print(films: "list[SharedFilm]", output: Path, *, quiet: bool) -> None:
    """Print what became of each film. Names of shared films are not printed: they may name the patient."""
    from kneegrade.reporting.report_labels import printable

    for film in films:
        if film.path is None:
            reason = "" if film.reason is None else film.reason.message
            typer.echo(f"Film {film.number} ({printable(film.source)}) was not shared: {reason}", err=True)
        elif not quiet:
            pixels = "pixels outside the knees blanked" if film.is_masked else "all pixels kept"
            grades = f"grades differ: {', '.join(film.changes)}" if film.changes else "grades as on the original film"
            typer.echo(f"Film {film.number}: {film.path.name} ({pixels}; {grades})")
    if not quiet:
        shared = sum(film.path is not None for film in films)
        typer.echo(f"Shared {shared} of {len(films)} films in {output}. Look at them before you publish them.")
