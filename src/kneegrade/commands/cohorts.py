"""`kneegrade cohort …`: labelled tables and folders → a manifest."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kneegrade.commands.shared import (
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

ManifestOption = Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")]
SubjectsOption = Annotated[int, typer.Option("--subjects", min=4, help="People.")]
FakeSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Another seed, other people.")]
LongestOption = Annotated[int, typer.Option(min=200, help="Longer side of the films in pixels.")]


class ProtocolFlag(StrEnum):
    """Which knees take part, with which labels."""

    natural = "natural"
    paper = "paper"


def pts(
    films: Annotated[Path, typer.Argument(help="Folder of films.")],
    landmarks: Annotated[Path, typer.Argument(help="Folder of .pts files named like the films, or COCO keypoints.")],
    output: ManifestOption,
    unit: UnitOption = UnitFlag.auto,
    mirrored: MirroredOption = MirroredFlag.none,
    spacing: SpacingOption = None,
    subject: Annotated[str, typer.Option(help="Regular expression; its first group in a name is the person.")] = "(.+)",
    split: Annotated[str, typer.Option(help="Split of all films.")] = "train",
    quiet: QuietOption = False,
) -> None:
    """Manifest of your own films with landmarks, to train the detector on."""
    from kneegrade.anatomy import UserLandmarks
    from kneegrade.cohorts import manifest_from_landmarks

    marked = UserLandmarks(landmarks, unit.value, mirrored.value)
    with progress_bar("Reading", quiet) as advance:
        table, bad = manifest_from_landmarks(
            films, marked, subject, split, pixel_spacing_mm=spacing_of(spacing), progress=advance
        )
    for line in bad:
        typer.echo(line, err=True)
    _write(table, output)


ProtocolOption = Annotated[
    ProtocolFlag,
    typer.Option(help="paper: all seven grades or none, as Zheng et al.; natural: every grade that was read."),
]
RootOption = Annotated[Path, typer.Option(help="Folder that holds tables and films, at any depth.")]
SeedOption = Annotated[int, typer.Option(help="Of the 2:1:1 split by person.")]


def oai(
    root: RootOption,
    output: ManifestOption,
    visits: Annotated[str | None, typer.Option(help="Codes, such as 00,01; all by default.")] = None,
    protocol: ProtocolOption = ProtocolFlag.natural,
    seed: SeedOption = 0,
    unpack_to: Annotated[
        Path | None,
        typer.Option(help="Folder for films still packed as .tar.gz; without it they are left out."),
    ] = None,
) -> None:
    """Manifest of an Osteoarthritis Initiative download: kXR_SQ_BU tables, contents.csv, films."""
    from kneegrade.cohorts import Counts, oai_manifest

    counts, codes = Counts(), None if visits is None else [code.strip() for code in visits.split(",")]
    table = oai_manifest(root, codes, protocol.value, seed=seed, counts=counts, unpack_to=unpack_to)
    _summed(table, counts, output)


def most(
    root: RootOption, output: ManifestOption, protocol: ProtocolOption = ProtocolFlag.natural, seed: SeedOption = 0
) -> None:
    """Manifest of a Multicenter Osteoarthritis Study download: MOSTV01235XRAY and films of the PA 10 view."""
    from kneegrade.cohorts import Counts, most_manifest

    counts = Counts()
    _summed(most_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def chen2018(
    root: Annotated[Path, typer.Option(help="Unpacked folder that holds train/, val/ or test/.")],
    output: ManifestOption,
    soft_labels: Annotated[Path | None, typer.Option(help="Parquet table of predicted landmarks and grades.")] = None,
    landmarks: Annotated[Path | None, typer.Option(help="Folder of .pts files that replace those landmarks.")] = None,
    image_only: Annotated[bool, typer.Option(help="Soft labels of the image alone, without the published KL.")] = False,
    detect: Annotated[
        bool, typer.Option(help="Leave the table's landmarks out, so that knees are looked for.")
    ] = False,
    soften_kl: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of training crops' KL labels that soft OARSI labels decide.")
    ] = 0.0,
) -> None:
    """Manifest of the Chen 2018 crops (Mendeley Data, doi 10.17632/56rmx5bjcr.1, CC BY 4.0)."""
    from kneegrade.cohorts import chen2018_manifest

    table = chen2018_manifest(
        root, soft_labels, given_kl=not image_only, landmarks=landmarks, known_landmarks=not detect, soften_kl=soften_kl
    )
    _write(table, output)


def phantom(
    root: Annotated[Path, typer.Option(help="Folder that `kneegrade phantom --films` wrote.")],
    output: ManifestOption, protocol: ProtocolOption = ProtocolFlag.natural, seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Manifest of phantom films, people split 2:1:1 like those of a study."""
    from kneegrade.cohorts import Counts, phantom_manifest

    counts = Counts()
    _summed(phantom_manifest(root, protocol.value, seed=seed, counts=counts), counts, output)


def csv(
    table: Annotated[Path, typer.Argument(help="Your table: any separator, or .sas7bdat.")],
    output: ManifestOption,
    mapping: Annotated[Path | None, typer.Option(help="YAML: which column holds what (docs/how-to-oai.md).")] = None,
    protocol: ProtocolOption = ProtocolFlag.natural,
    seed: SeedOption = 0,
) -> None:
    """Manifest of your own table of films and grades."""
    from kneegrade.cohorts import Counts, csv_manifest

    counts = Counts()
    _summed(csv_manifest(table, mapping, protocol.value, seed=seed, counts=counts), counts, output)


def fake_oai(
    output: OutputOption, subjects: SubjectsOption = 60, seed: FakeSeedOption = 0, longest_px: LongestOption = 900,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """A fake OAI download of phantoms, with the study's names and quirks, to rehearse on."""
    from kneegrade.cohorts import FakeOptions, write_fake_oai

    with progress_bar("Drawing", quiet) as advance:
        write_fake_oai(output, FakeOptions(subjects, seed, longest_px), advance)


def fake_most(
    output: OutputOption, subjects: SubjectsOption = 60, seed: FakeSeedOption = 0, longest_px: LongestOption = 900,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """A fake MOST download of phantoms, to rehearse on."""
    from kneegrade.cohorts import FakeOptions, write_fake_most

    with progress_bar("Drawing", quiet) as advance:
        write_fake_most(output, FakeOptions(subjects, seed, longest_px), advance)


def _summed(table: "pd.DataFrame", counts: "Counts", output: Path) -> None:
    """Write a manifest and, beside it, its summary, which is also shown."""
    from kneegrade.cohorts import cohort_summary
    from kneegrade.files import replacing

    _write(table, output)
    text = cohort_summary(table, counts)
    with replacing(output.with_suffix(".md")) as stream:
        stream.write(text)
    typer.echo(text)


def _write(table: "pd.DataFrame", output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".tmp")
    table.to_parquet(partial)
    partial.replace(output)
    typer.echo(f"{len(table)} knees of {table['subject_id'].nunique()} people in {output}")
