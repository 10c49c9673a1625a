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


def oai_manifest(
    root: Path, visits: Iterable[str] | None = None, protocol: Protocol = "natural", *, seed: int = 0,
    counts: Counts | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The manifest of an OAI download; see `oai`, `protocol`.

    Raises:
        CohortError: tables or films are missing or are not what they should be.
    """
    counts, root = Counts() if counts is None else counts, root.resolve()
    files = oai_files(root)
    readings, films = oai_readings(files, visits, counts), oai_films(files, counts)
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
