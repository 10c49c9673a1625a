"""`kneegrade cohort …`: build a manifest from a study's or a user's tables and films."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.options import (
    MirroredFlag,
    MirroredOption,
    OutputOption,
    QuietOption,
    SpacingOption,
    UnitFlag,
    UnitOption,
    progress_bar,
    spacing_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from kneegrade.cohorts import Counts


class ProtocolFlag(StrEnum):
    """Which knees are included, with which labels."""

    natural = "natural"
    paper = "paper"


RootOption = Annotated[Path, typer.Option(help="Folder of the download; tables and films may lie at any depth.")]
ManifestOption = Annotated[
    Path, typer.Option("--output", "-o", help="Parquet file to write; missing folders are created.")
]
ProtocolOption = Annotated[
    ProtocolFlag,
    typer.Option(
        help="natural: every grade that was read. paper: knees with all seven grades are labelled, all others lose "
        "their grades (Zheng et al.)."
    ),
]
SeedOption = Annotated[
    int, typer.Option(help="Integer that seeds the random 2:1:1 split of people into train, val and test.")
]
SubjectsOption = Annotated[int, typer.Option("--subjects", min=4, help="Number of people, at least 4.")]
FakeSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Integer that seeds the phantoms and the special cases.")
]
LongestOption = Annotated[int, typer.Option(min=200, help="Longer side of the films in pixels, at least 200.")]


def oai(
    root: RootOption,
    output: ManifestOption,
    visits: Annotated[
        str | None,
        typer.Option(help="Comma-separated codes of the visits to read, such as 00,01. Default: all visits."),
    ] = None,
    protocol: ProtocolOption = ProtocolFlag.natural,
    seed: SeedOption = 0,
    unpack_to: Annotated[
        Path | None,
        typer.Option(help="Folder into which films packed as .tar.gz are unpacked. Default: they are excluded."),
    ] = None,
) -> None:
    """Build a manifest from an OAI download.

    Reads the kXR_SQ_BU tables, the contents.csv files and the films of the Osteoarthritis Initiative. A summary is
    printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, oai_manifest

    counts, codes = Counts(), None if visits is None else [code.strip() for code in visits.split(",")]
    table = oai_manifest(root, codes, protocol.value, seed=seed, counts=counts, unpack_to=unpack_to)
    _write_with_summary(table, counts, output)


def most(
    root: RootOption, output: ManifestOption, protocol: ProtocolOption = ProtocolFlag.natural, seed: SeedOption = 0
) -> None:
    """Build a manifest from a MOST download.

    Reads the table MOSTV01235XRAY and the films of the PA 10° view of the Multicenter Osteoarthritis Study. A summary
    is printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, most_manifest

    counts = Counts()
    _write_with_summary(most_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def chen2018(
    root: Annotated[
        Path, typer.Option(help="Unpacked folder that holds train/, val/ or test/, at most three levels below.")
    ],
    output: ManifestOption,
    soft_labels: Annotated[
        Path | None,
        typer.Option(
            help="Parquet table of predicted landmarks and OARSI grades of the crops. Default: KL grades only."
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of .pts files that replace the landmarks of --soft-labels; crops without one are excluded. "
            "Default: not replaced."
        ),
    ] = None,
    image_only: Annotated[
        bool,
        typer.Option(
            help="Use soft labels predicted from the image alone. Default: those conditioned on the published KL.",
        ),
    ] = False,
    detect: Annotated[
        bool,
        typer.Option(
            help="Omit the landmarks of --soft-labels, so that the detector finds the knees. Default: keep them.",
        ),
    ] = False,
    soften_kl: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="Share of the KL label of training crops taken from the soft OARSI labels, 0 to 0.5."
        ),
    ] = 0.0,
) -> None:
    """Build a manifest from the Chen 2018 knee crops.

    Mendeley Data, doi 10.17632/56rmx5bjcr.1, CC BY 4.0.
    """
    from kneegrade.cohorts import chen2018_manifest

    table = chen2018_manifest(
        root, soft_labels, given_kl=not image_only, landmarks=landmarks, known_landmarks=not detect, soften_kl=soften_kl
    )
    _write_manifest(table, output)


def phantom(
    root: Annotated[Path, typer.Option(help="Folder that `kneegrade phantom --films` wrote.")],
    output: ManifestOption, protocol: ProtocolOption = ProtocolFlag.natural, seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Build a manifest from synthetic phantom films.

    People are split as in a study. A summary is printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, phantom_manifest

    counts = Counts()
    _write_with_summary(phantom_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def csv(
    table: Annotated[
        Path, typer.Argument(help="Your table: text with any of the separators , ; | and tab, or .sas7bdat.")
    ],
    output: ManifestOption,
    mapping: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with the names of your columns (docs/how-to/oai-most.md). Default: the names of a manifest."
        ),
    ] = None,
    protocol: ProtocolOption = ProtocolFlag.natural,
    seed: SeedOption = 0,
) -> None:
    """Build a manifest from your own table of films and grades.

    A summary is printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, csv_manifest

    counts = Counts()
    _write_with_summary(csv_manifest(table, mapping, protocol.value, seed=seed, counts=counts), counts, output)


def pts(
    films: Annotated[Path, typer.Argument(help="Folder of films.")],
    landmarks: Annotated[
        Path, typer.Argument(help="Folder of .pts files named like the films, or a COCO keypoints file.")
    ],
    output: ManifestOption,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    spacing: SpacingOption = None,
    subject: Annotated[
        str,
        typer.Option(
            help="Regular expression searched in the film's file name; its first group identifies the person."
        ),
    ] = "(.+)",
    split: Annotated[str, typer.Option(help="Name of the split that all knees are assigned to.")] = "train",
    quiet: QuietOption = False,
) -> None:
    """Build a manifest from your own films with landmarks.

    The manifest has no grades; train a landmark detector on it.
    """
    from kneegrade.anatomy import UserLandmarks
    from kneegrade.cohorts import manifest_from_landmarks

    user_landmarks = UserLandmarks(landmarks, unit.value, mirrored.value)
    with progress_bar("Reading", quiet) as advance:
        table, excluded = manifest_from_landmarks(
            films, user_landmarks, subject, split, pixel_spacing_mm=spacing_of(spacing), progress=advance
        )
    for line in excluded:
        typer.echo(line, err=True)
    _write_manifest(table, output)


def fake_oai(
    output: OutputOption, subjects: SubjectsOption = 60, seed: FakeSeedOption = 0, longest_px: LongestOption = 900,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Write a synthetic OAI download for trial runs.

    Tables and folders have the names, codes and special cases of the study; the films show phantoms.
    """
    from kneegrade.cohorts import FakeOptions, write_fake_oai

    with progress_bar("Rendering", quiet) as advance:
        write_fake_oai(output, FakeOptions(subjects, seed, longest_px), advance)


def fake_most(
    output: OutputOption, subjects: SubjectsOption = 60, seed: FakeSeedOption = 0, longest_px: LongestOption = 900,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Write a synthetic MOST download for trial runs.

    The table and the folders have the names and codes of the study; the films show phantoms.
    """
    from kneegrade.cohorts import FakeOptions, write_fake_most

    with progress_bar("Rendering", quiet) as advance:
        write_fake_most(output, FakeOptions(subjects, seed, longest_px), advance)


def _write_with_summary(table: "pd.DataFrame", counts: "Counts", output: Path) -> None:
    """Write a manifest and, beside it, its summary, which is also printed."""
    from kneegrade.cohorts import cohort_summary
    from kneegrade.files import replacing

    _write_manifest(table, output)
    text = cohort_summary(table, counts)
    with replacing(output.with_suffix(".md")) as stream:
        stream.write(text)
    typer.echo(text)


def _write_manifest(table: "pd.DataFrame", output: Path) -> None:
    """Write a manifest and print its size."""
    from kneegrade.files import replacing

    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output, "wb") as stream:
        table.to_parquet(stream)
    typer.echo(f"Wrote {len(table)} knees of {table['subject_id'].nunique()} people to {output}.")
