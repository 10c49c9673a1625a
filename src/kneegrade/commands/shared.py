"""Options and the progress bar that several verbs share."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from kneegrade.evaluation import Predictions
    from kneegrade.evaluation.table_formats import Table


class SideFlag(StrEnum):
    """Side of a single knee."""

    R = "R"
    L = "L"


class DeviceFlag(StrEnum):
    """Where the networks run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class UnitFlag(StrEnum):
    """Unit of the numbers in `.pts` files."""

    auto = "auto"
    px = "px"
    mm = "mm"


class MirroredFlag(StrEnum):
    """Which knees of `.pts` files were marked on their mirror images."""

    none = "none"
    R = "R"
    L = "L"
    both = "both"


SIDES: dict[SideFlag, Literal["R", "L"]] = {SideFlag.R: "R", SideFlag.L: "L"}

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; made if it is not there.")]
UnitOption = Annotated[
    UnitFlag, typer.Option("--landmark-unit", help="Unit of .pts files; auto: by the tibia's width.")
]
MirroredOption = Annotated[
    MirroredFlag, typer.Option("--landmarks-mirrored", help="Knees that were marked on their mirror image.")
]
DetectorOption = Annotated[Path | None, typer.Option(help="A landmark detector of your own (`kneegrade train`).")]
SpacingOption = Annotated[
    float | None, typer.Option("--pixel-spacing", min=0.01, max=2, help="mm per pixel of films that do not say.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


@contextmanager
def progress_bar(title: str, silent: bool) -> Iterator[Any]:
    """Gives a function (done, all, loss=None) that moves a bar on the terminal's error stream."""
    if silent:
        yield lambda done, total, loss=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int, loss: float | None = None) -> None:
            text = title if loss is None else f"{title} (loss {loss:.3f})"
            bar.update(task, completed=done, total=total, description=text)

        yield advance


def spacing_of(mm: float | None) -> tuple[float, float] | None:
    """(row, column) spacing of the option."""
    return None if mm is None else (mm, mm)


def write_measures(predictions: "Predictions", output: Path, about: Mapping[str, Any]) -> "tuple[Table, str]":
    """Score predictions; write `predictions.parquet`, `metrics.json` and the table to a folder, made if need be.

    Args:
        predictions: of one network.
        output: the folder.
        about: stands before the metrics in the JSON object.

    Returns:
        The table, and the JSON text.
    """
    from kneegrade.evaluation import SubjectBootstrap, as_json, score
    from kneegrade.evaluation.paper_tables import evaluation_table
    from kneegrade.evaluation.table_formats import write_table
    from kneegrade.files import replacing

    scores = score(predictions, SubjectBootstrap(predictions.subject))
    output.mkdir(parents=True, exist_ok=True)
    predictions.save(output / "predictions.parquet")
    text = json.dumps({**about, **as_json(scores, predictions)}, indent=1)
    with replacing(output / "metrics.json") as stream:
        stream.write(text + "\n")
    shown = evaluation_table(scores, predictions)
    write_table(shown, output)
    return shown, text
