"""`kneegrade sr read`: structured reports → results."""

from pathlib import Path
from typing import Annotated

import typer


def read(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="DICOM structured reports that kneegrade wrote.")
    ],
) -> None:  # fmt: skip
    """Print the results in structured reports of kneegrade as JSON.

    The layout is that of report.json, with `software` for each film and the name of the file as `source`. Nothing about
    the patient is read.

    Exit code 0: all files were read. 2: a file is no structured report of kneegrade, or cannot be read.
    """
    import json

    from kneegrade.clinical import read_sr
    from kneegrade.errors import KneeGradeError
    from kneegrade.imaging.sources import shown_name

    results, failed = [], False
    for path in files:
        try:
            results.append({"source": shown_name(path.name), **read_sr(path)})
        except KneeGradeError as error:
            failed = True
            typer.echo(f"kneegrade: {shown_name(path.name)}: {error.message}", err=True)
    if results:
        typer.echo(json.dumps({"radiographs": results}, indent=1, ensure_ascii=False))
    if failed:
        raise typer.Exit(2)
