"""Command-line options, and the progress bar, that several commands share."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kneegrade.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kneegrade.imaging import Source


class SideFlag(StrEnum):
    """Values of `--side`."""

    R = "R"
    L = "L"


class DeviceFlag(StrEnum):
    """Values of `--device`."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class RuntimeFlag(StrEnum):
    """Values of `--runtime`."""

    torch = "torch"
    openvino = "openvino"


class PrecisionFlag(StrEnum):
    """Values of `--precision`."""

    float32 = "float32"
    bf16 = "bf16"


class UnitFlag(StrEnum):
    """Values of `--landmark-unit`."""

    auto = "auto"
    px = "px"
    mm = "mm"


class MirroredFlag(StrEnum):
    """Values of `--landmarks-mirrored`."""

    none = "none"
    R = "R"
    L = "L"
    both = "both"


SIDES: dict[SideFlag, Literal["R", "L"]] = {SideFlag.R: "R", SideFlag.L: "L"}

InputsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT", help="DICOM, PNG, JPEG or TIFF files, or folders or zip files that contain them."),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results; created if it does not exist.")
]
SideOption = Annotated[
    SideFlag | None,
    typer.Option(
        help="Side of the body, for films of a single knee whose file does not state it.",
        show_default="from the film",
    ),
]
UnitOption = Annotated[
    UnitFlag,
    typer.Option("--landmark-unit", help="Unit of the .pts files; auto derives it from the width of the tibia."),
]
MirroredOption = Annotated[
    MirroredFlag,
    typer.Option("--landmarks-mirrored", help="Side whose knees were annotated on mirrored images."),
]
SpacingOption = Annotated[
    float | None,
    typer.Option(
        "--pixel-spacing", metavar="MM", min=0.01, max=2,
        help="Pixel spacing in mm, for films whose file does not state it. The pixels then count as square, and no "
        "stretch is removed.", show_default="from the file, or unknown",
    ),
]  # fmt: skip
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights of the grader (safetensors, written by train, calibrate or quality-control).",
        show_default="the shipped weights",
    ),
]  # fmt: skip
DetectorOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Weights of the landmark detector (safetensors, written by train).",
        show_default="the shipped weights",
    ),
]  # fmt: skip
DeviceOption = Annotated[
    DeviceFlag, typer.Option(help="Device that runs the networks; auto uses CUDA if it is available.")
]
ThreadsOption = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="CPU threads of the networks. With torch they do not change the results."),
]
RuntimeOption = Annotated[
    RuntimeFlag, typer.Option(help="Library that computes the networks; openvino needs kneegrade[openvino].")
]
PrecisionOption = Annotated[
    PrecisionFlag,
    typer.Option(help="Precision of the networks. `kneegrade info --speed` shows whether bf16 is faster."),
]
DetectOption = Annotated[
    bool, typer.Option("--detect", help="Detect the landmarks, even if the manifest contains them.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="Replace a setting of the recipe, for example train.epochs=10. May be repeated.", show_default="none",
    ),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


@contextmanager
def progress_bar(title: str, silent: bool) -> Iterator[Any]:
    """Yields a function `advance(done, total, loss=None)` that moves a progress bar on standard error.

    Args:
        title: shown in front of the bar.
        silent: show no bar; `advance` then does nothing.
    """
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


def sources_in(inputs: "Sequence[Path]", other_files: Counter[str] | None = None) -> "list[Source]":
    """The films in files, folders and zip files.

    Args:
        inputs: files, folders and zip files.
        other_files: the number of files that were left out because they are not films is added, by kind.

    Raises:
        UsageError: there is none.
    """
    from kneegrade.imaging import find_sources, other_files_line

    others = Counter[str]() if other_files is None else other_files
    sources = list(find_sources(inputs, other_files=others))
    if not sources:
        raise UsageError(
            "No radiograph was found in the input; give DICOM, PNG, JPEG or TIFF files, or folders or zip files that "
            f"contain them. {other_files_line(others)}".rstrip()
        )
    return sources


def spacing_of(mm: float | None) -> tuple[float, float] | None:
    """(row, column) spacing in mm for the value of `--pixel-spacing`, or None."""
    return None if mm is None else (mm, mm)


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated option, without spaces and empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def report_and_object_formats(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats of reports and those of derived objects in the value of `--format`.

    Raises:
        BadParameter: there is none, or one is unknown.
        UsageError: a format needs a package that is not installed.
    """
    from kneegrade.clinical.object_files import OBJECT_FORMATS, checked_formats
    from kneegrade.reporting import FORMATS

    wanted = listed(text)
    if not wanted or set(wanted) - {*FORMATS, *OBJECT_FORMATS}:
        raise typer.BadParameter(
            f"{text!r} is not a list of formats; choose from {', '.join((*FORMATS, *OBJECT_FORMATS))}.",
            param_hint="--format",
        )
    reports = tuple(name for name in wanted if name in FORMATS)
    return reports, checked_formats(name for name in wanted if name in OBJECT_FORMATS)


def predictions_file(path: Path) -> Path:
    """The predictions that a training run or `kneegrade evaluate` wrote to the folder `path`, else `path` itself."""
    found = [path / name for name in ("predictions-test.parquet", "predictions.parquet") if (path / name).is_file()]
    return found[0] if found else path
