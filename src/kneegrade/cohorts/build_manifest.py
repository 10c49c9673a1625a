"""Whole studies, from folder to manifest: tables, films and protocol put together.

From readings and films to a manifest: which knees take part, with which labels, in which split.

What a cohort turned out to hold, as Markdown: knees by visit and split, grades beside the paper's, oddities.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kneegrade.cohorts.manifest import check_manifest
from kneegrade.cohorts.most import most_films, most_readings
from kneegrade.cohorts.oai import oai_files, oai_films, oai_readings, with_widths
from kneegrade.cohorts.own_tables import load_column_map, own_table_readings
from kneegrade.cohorts.readings import Counts
from kneegrade.errors import CohortError
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.phantom.prevalence import PAPER_COUNTS
from kneegrade.schema import TARGET_NAMES, TARGETS

Protocol = Literal["paper", "natural"]
SPLITS = ("train", "train", "val", "test")  # 2:1:1


def manifest_of(
    readings: pd.DataFrame, source: str, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """The manifest of readings that have an `image_path`.

    "paper": knees with all seven grades are labelled; all others lose what grades they have and are trained on without
    labels, but for those of people in validation or test, which are left out. "natural": every knee with every grade it
    has. Either way people are split 2:1:1, alike in their worst KL grade, whether or not their films are there; in
    "paper" those with a labelled knee, the rest being trained on. Another protocol or other visits give another split.

    Args:
        readings: see `kneegrade.cohorts.readings`; knees without a film are left out and counted.
        source: name of the cohort.
        protocol: "paper" or "natural".
        seed: of the split.
        counts: what was left out is added.

    Raises:
        CohortError: no knee has a film.
    """
    counts = Counts() if counts is None else counts
    table, names = readings.reset_index(drop=True), list(TARGET_NAMES)
    labelled = table[names].notna().all(axis=1) if protocol == "paper" else table[names].notna().any(axis=1)
    if not labelled.any():
        raise CohortError(
            f"None of the {len(table)} readings has {'all seven grades' if protocol == 'paper' else 'a grade'}."
        )
    if "split" not in table.columns:  # a table of one's own may say
        table["split"] = table["subject_id"].map(split_by_subject(table[labelled], seed)).fillna("train")
    if protocol == "paper":
        table.loc[~labelled, names] = pd.NA
        out = ~labelled & (table["split"] != "train")
        counts.add("unlabelled knees of people in validation or test, left out", int(out.sum()))
        table = table[~out]
    there = table["image_path"].notna()
    counts.add("knees without a film, left out", int((~there).sum()))
    if not there.any():
        raise CohortError(f"None of the {len(table)} readings has its film; the barcodes or the folders differ.")
    table = table[there].reset_index(drop=True)
    months = table["visit"].astype(int).map("{:03d}".format)
    people = table["subject_id"].str.removeprefix(f"{source}-")
    table["knee_id"] = source + "-" + people + "-" + months + "-" + table["side"]
    again = table.groupby("knee_id").cumcount()
    table.loc[again > 0, "knee_id"] += "-" + (again[again > 0] + 1).astype(str)
    table["source"] = source
    check_manifest(table)
    return table


def split_by_subject(table: pd.DataFrame, seed: int = 0) -> dict[str, str]:
    """Subject → "train", "val" or "test", 2:1:1, in each stratum of the worst KL grade (-1 where KL was never read)."""
    worst = table.assign(kl=table["kl"].astype("Int64").fillna(-1)).groupby("subject_id")["kl"].max()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(worst))
    ranked = worst.iloc[order].sort_values(kind="stable")  # strata one after the other, shuffled within
    return {subject: SPLITS[i % len(SPLITS)] for i, subject in enumerate(ranked.index)}


def cohort_summary(table: pd.DataFrame, counts: Counts) -> str:
    """Markdown about a manifest and what was met while it was made.

    Args:
        table: the manifest.
        counts: of oddities; reasons for missing grades are named "<grade>: <reason>".
    """
    names = list(TARGET_NAMES)
    whole = int(table[names].notna().all(axis=1).sum())
    some = int(table[names].notna().any(axis=1).sum())
    parts = [
        f"{len(table):,} knees of {table['subject_id'].nunique():,} people on {table['image_path'].nunique():,} films; "
        f"{whole:,} with all seven grades, {some - whole:,} with some, {len(table) - some:,} with none.",
        _counted(table),
        _grades(table),
        _oddities(counts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counted(table: pd.DataFrame) -> str:
    visits = table["visit"] if "visit" in table.columns else pd.Series(0, index=table.index)
    counted = pd.crosstab(visits, table["split"])
    rows = [f"| {visit} | " + " | ".join(f"{number:,}" for number in row) + " |" for visit, row in
            zip(counted.index, counted.to_numpy(), strict=True)]  # fmt: skip
    header = "| months | " + " | ".join(counted.columns) + " |"
    return "\n".join(["### Knees", "", header, "|---" * (len(counted.columns) + 1) + "|", *rows])


def _grades(table: pd.DataFrame) -> str:
    header = "| grade | " + " | ".join(TARGET_NAMES) + " |"
    rows = []
    for grade in range(5):
        cells = []
        for target in TARGETS:
            if grade >= target.classes:
                cells.append("–")
                continue
            read = table[target.name].dropna()
            share = (read == grade).mean() if len(read) else 0.0
            papers = PAPER_COUNTS[target.name]
            cells.append(f"{int((read == grade).sum()):,} ({share:.1%}; paper {papers[grade] / sum(papers):.1%})")
        rows.append(f"| {grade} | " + " | ".join(cells) + " |")
    missing = "| missing | " + " | ".join(f"{int(table[name].isna().sum()):,}" for name in TARGET_NAMES) + " |"
    return "\n".join(["### Grades, beside the paper's Table 1", "", header, "|---" * 8 + "|", *rows, missing])


def _oddities(counts: Counts) -> str:
    if not counts.met:
        return ""
    lines = [f"- {name}: {number:,}" for name, number in sorted(counts.met.items())]
    return "\n".join(["### What was met", "", *lines])


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
    readings = own_table_readings(path, load_column_map(mapping), counts)
    return manifest_of(readings, path.stem, protocol, seed=seed, counts=counts)
