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


RootOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of the download, with tables and films in any subfolders.")
]


def _checked_manifest(output: Path) -> Path:
    """Check that the manifest can be written, before the work, which can take hours."""
    from kneegrade.files import prepare_output

    prepare_output(output.absolute().parent, [output.name])
    return output


ManifestOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Parquet file to write; missing folders are created.",
        callback=_checked_manifest,
    ),
]  # fmt: skip
ProtocolOption = Annotated[
    ProtocolFlag,
    typer.Option(
        help="natural: keep every grade. paper: keep the grades only of knees with all seven grades, as in Zheng et "
        "al.; the other knees become unlabelled training knees or are excluded."
    ),
]
SeedOption = Annotated[
    int, typer.Option(metavar="N", help="Seed of the random 2:1:1 split of the subjects into train, val and test.")
]
SubjectsOption = Annotated[int, typer.Option("--subjects", metavar="N", min=4, help="Number of subjects.")]
FakeSeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of the phantoms and the special cases.")
]
LongestOption = Annotated[int, typer.Option(metavar="PX", min=200, help="Longer side of the films in pixels.")]


def oai(
    root: RootOption,
    output: ManifestOption,
    visits: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Comma-separated codes of the visits to read, such as 00,01.",
            show_default="all visits",
        ),
    ] = None,
    protocol: ProtocolOption = ProtocolFlag.natural,
    seed: SeedOption = 0,
    unpack_to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder into which films packed as .tar.gz are unpacked.",
            show_default="these films are excluded",
        ),
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

    Reads the table MOSTV01235XRAY and the PA 10° films of the Multicenter Osteoarthritis Study. A summary
    is printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, most_manifest

    counts = Counts()
    _write_with_summary(most_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def chen2018(
    root: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Unpacked folder that contains train/, val/ or test/, at most three levels below it."
        ),
    ],
    output: ManifestOption,
    soft_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="KL grades only",
            help="Parquet table of predicted landmarks and soft OARSI labels of the crops.",
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="not replaced",
            help="Folder of .pts files that replace the landmarks of --soft-labels; crops without a file are excluded.",
        ),
    ] = None,
    image_only: Annotated[
        bool,
        typer.Option(
            "--image-only/--no-image-only",
            show_default=False,
            help="Use soft labels predicted from the image alone, instead of those conditioned on the published KL.",
        ),
    ] = False,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect/--no-detect",
            show_default=False,
            help="Omit the landmarks of --soft-labels, so that later commands detect the landmarks.",
        ),
    ] = False,
    soften_kl: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=0.5, help="Weight of the soft OARSI labels in the KL label of training crops."
        ),
    ] = 0.0,
) -> None:
    """Build a manifest from the Chen 2018 knee crops.

    Download: Mendeley Data, doi 10.17632/56rmx5bjcr.1, CC BY 4.0.
    """
    from kneegrade.cohorts import chen2018_manifest

    table = chen2018_manifest(
        root, soft_labels, given_kl=not image_only, landmarks=landmarks, known_landmarks=not detect, soften_kl=soften_kl
    )
    _write_manifest(table, output)


def phantom(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder that `kneegrade phantom --films` wrote.")],
    output: ManifestOption, protocol: ProtocolOption = ProtocolFlag.natural, seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Build a manifest from synthetic phantom films.

    Subjects are split into train, val and test. A summary is printed and written beside the manifest (.md).
    """
    from kneegrade.cohorts import Counts, phantom_manifest

    counts = Counts()
    _write_with_summary(phantom_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def csv(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="Your table: text with comma, semicolon, | or tab as separator, or .sas7bdat."
        ),
    ],
    output: ManifestOption,
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with the names of your columns (docs/how-to/oai-most.md).",
            show_default="the names of a manifest",
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
    films: Annotated[Path, typer.Argument(metavar="FILMS", help="Folder of films.")],
    landmarks: Annotated[
        Path,
        typer.Argument(
            metavar="LANDMARKS", help="Folder of .pts files named like the films, or a COCO keypoints file."
        ),
    ],
    output: ManifestOption,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    spacing: SpacingOption = None,
    subject: Annotated[
        str,
        typer.Option(
            metavar="REGEX",
            help="Regular expression whose first group in a film's file name is the subject.",
        ),
    ] = "(.+)",
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of all knees.")] = "train",
    quiet: QuietOption = False,
) -> None:
    """Build a manifest from your own films with landmarks.

    The manifest has no grades; it is used to train a landmark detector.
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
    from kneegrade.files import write_text

    _write_manifest(table, output)
    text = cohort_summary(table, counts)
    write_text(output.with_suffix(".md"), text)
    typer.echo(text)


def _write_manifest(table: "pd.DataFrame", output: Path) -> None:
    """Write a manifest and print its size."""
    from kneegrade.files import make_directory, replacing

    make_directory(output.parent)
    with replacing(output, "wb") as stream:
        table.to_parquet(stream)
    typer.echo(f"Wrote {len(table)} knees of {table['subject_id'].nunique()} subjects to {output}.")
