"""`kneegrade phantom`: synthetic radiographs with known truth."""

from enum import StrEnum
from typing import Annotated, Literal

import typer

from kneegrade.commands.options import OutputOption, QuietOption, progress_bar
from kneegrade.errors import UsageError


class PrevalenceFlag(StrEnum):
    """Values of `--prevalence`."""

    natural = "natural"
    paper = "paper"
    uniform = "uniform"


def phantom(
    output: OutputOption,
    number: Annotated[
        int, typer.Option("--number", "-n", metavar="N", min=1, help="Number of films, or of knees with --rois.")
    ] = 10,
    prevalence: Annotated[
        PrevalenceFlag,
        typer.Option(
            help="Grade frequencies: natural (a cohort at risk of osteoarthritis), paper (Table 1 of the paper), "
            "uniform (over KL 0 to 4)."
        ),
    ] = PrevalenceFlag.natural,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Random seed; each seed gives other subjects.")
    ] = 0,
    films: Annotated[
        bool,
        typer.Option(
            "--films", help="Write DICOM films and a table of the truth; the default without --rois and --dataset."
        ),
    ] = False,
    rois: Annotated[
        bool, typer.Option("--rois", help="Write an array of single-knee crops (320 px) and a table of the truth.")
    ] = False,
    dataset: Annotated[
        bool,
        typer.Option(
            "--dataset", "--store",
            help="Write a dataset for `kneegrade train`; with --films the crops are cut from whole films.",
        ),
    ] = False,
    extent: Annotated[
        float,
        typer.Option(
            "--extent", "--widths", metavar="WIDTHS", min=0.5, max=5,
            help="Side length of a dataset's crop, in widths of the tibial plateau.",
        ),
    ] = 1.5,
    implants: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of knees with metal (not with --dataset).")
    ] = 0.0,
    distractors: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of films without a knee (films only).")
    ] = 0.0,
    readers: Annotated[
        bool, typer.Option("--readers", help="Add the labels of a simulated second reader (not with --dataset).")
    ] = False,
    longest_px: Annotated[
        int | None,
        typer.Option(
            metavar="PX", min=64, max=20_000, help="Longer side of the films in pixels.",
            show_default="full resolution",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Generate synthetic radiographs with known truth."""
    if rois and (films or dataset):
        raise UsageError("--rois cannot be combined with --films or --dataset; choose one.")
    if (dataset and (implants or readers)) or (distractors and (dataset or rois)):
        raise UsageError(
            "--implants and --readers cannot be used with --dataset, and --distractors can only be used with films. "
            "Leave out the option."
        )
    from kneegrade.files import prepare_output

    prepare_output(output.resolve().parent if dataset else output)  # a dataset gets its name when it is complete
    with progress_bar("Rendering", quiet) as advance:
        if dataset:
            from kneegrade.training.phantom_datasets import build_film_dataset, build_phantom_dataset

            build = build_film_dataset if films else build_phantom_dataset
            build(output, number, prevalence.value, seed, extent_in_plateau_widths=extent, progress=advance)
        else:
            from kneegrade.phantom import Cohort, write_cohort

            kind: Literal["films", "rois"] = "rois" if rois else "films"
            cohort = Cohort(number, prevalence.value, seed, kind, implants, distractors, readers, longest_px)
            write_cohort(output, cohort, advance)
