"""Whole studies, from folder to manifest: tables, films and protocol put together."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from kneegrade.cohorts.mapped import load_map, mapped_readings
from kneegrade.cohorts.most import most_films, most_readings
from kneegrade.cohorts.oai import oai_films, oai_readings, with_widths
from kneegrade.cohorts.oai_files import oai_files
from kneegrade.cohorts.protocol import Protocol, manifest_of
from kneegrade.cohorts.readings import Counts
from kneegrade.errors import CohortError
from kneegrade.phantom.cohort import ROI_FILE, TABLE_FILE


def oai_manifest(
    root: Path, visits: Iterable[str] | None = None, protocol: Protocol = "natural", *, seed: int = 0,
    counts: Counts | None = None, unpack_to: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The manifest of an OAI download; see `oai`, `protocol`.

    Films still packed as `.tar.gz` are unpacked below `unpack_to`; without it they are left out and counted.

    Raises:
        CohortError: tables or films are missing or are not what they should be.
    """
    counts, root = Counts() if counts is None else counts, root.resolve()
    files = oai_files(root)
    readings, films = oai_readings(files, visits, counts), oai_films(files, counts, unpack_to)
    readings = with_widths(readings, files, counts)
    films = films.rename(columns={"subject_id": "on_film"})
    merged = readings.merge(films, on="barcode", how="left", validate="many_to_one")
    other = merged["on_film"].notna() & (merged["on_film"] != merged["subject_id"])
    counts.add("knees whose barcode leads to another person's film", int(other.sum()))
    counts.add("knees without a barcode", int((merged["barcode"] == "").sum()))
    unlisted = merged["on_film"].isna() & (merged["barcode"] != "")
    counts.add("knees whose barcode is in no contents.csv", int(unlisted.sum()))
    counts.add("knees whose film is not on disk", int((merged["on_film"].notna() & merged["path"].isna()).sum()))
    merged["image_path"] = merged["path"].where(~other)
    return manifest_of(merged.drop(columns=["on_film", "path"]), "oai", protocol, seed=seed, counts=counts)


def most_manifest(
    root: Path, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """The manifest of a MOST download; see `most`, `protocol`.

    Raises:
        CohortError: the table or the films are missing or are not what they should be.
    """
    counts, root = Counts() if counts is None else counts, root.resolve()
    films = most_films(root, counts)
    merged = most_readings(root, counts).merge(films, on=["subject_id", "visit"], how="left", validate="many_to_one")
    merged = merged.rename(columns={"path": "image_path"})
    return manifest_of(merged, "most", protocol, seed=seed, counts=counts)


def phantom_manifest(
    root: Path, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """The manifest of films that `kneegrade phantom` wrote, with their landmarks; people are split like any study's.

    Knees whose joint is replaced have no grades. A network that learnt from phantoms has seen their kind: what it
    scores on others measures nothing that a real knee would.

    Raises:
        CohortError: no phantom films there.
    """
    table_file = root / TABLE_FILE
    if not table_file.is_file():
        raise CohortError(f"{root} holds no {TABLE_FILE}; `kneegrade phantom --films -o {root}` writes one.")
    table = pd.read_parquet(table_file)
    if (table["image_path"] == ROI_FILE).any():
        raise CohortError(f"{root} holds single regions (--rois), no films; `kneegrade phantom --films` writes films.")
    counts = Counts() if counts is None else counts
    counts.add("knees whose joint is replaced, no grades", int(table["kl"].isna().sum()))
    films = [root.resolve() / image for image in table["image_path"]]
    table["image_path"] = [str(film) if film.is_file() else None for film in films]
    return manifest_of(
        table.drop(columns=["split", "source", "knee_id"]), "phantom", protocol, seed=seed, counts=counts
    )


def csv_manifest(
    path: Path, mapping: Path | None = None, protocol: Protocol = "natural", *, seed: int = 0,
    counts: Counts | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The manifest of a table of one's own; see `mapped`.

    Raises:
        CohortError: the table or the mapping is not what it should be.
    """
    counts = Counts() if counts is None else counts
    readings = mapped_readings(path, load_map(mapping), counts)
    return manifest_of(readings, path.stem, protocol, seed=seed, counts=counts)
