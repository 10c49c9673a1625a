"""From readings and films to a manifest: which knees are included, with which labels, in which split.

One function per source of data (`oai_manifest`, `most_manifest`, `phantom_manifest`, `csv_manifest`) joins readings and
films; `manifest_from_readings` applies the protocol and the split to each; `cohort_summary` describes the result.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kneegrade.cohorts.manifest import check_manifest
from kneegrade.cohorts.most import most_films, most_readings
from kneegrade.cohorts.oai import OaiFiles, add_joint_space_widths, oai_files, oai_films, oai_readings
from kneegrade.cohorts.oai_film_lists import PACKED_EXCLUDED, FilmFinder
from kneegrade.cohorts.own_tables import load_column_map, own_table_readings
from kneegrade.cohorts.readings import Counts
from kneegrade.errors import CohortError
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.phantom.prevalence import PAPER_COUNTS
from kneegrade.schema import TARGET_NAMES, TARGETS

Protocol = Literal["paper", "natural"]
SPLIT_CYCLE = ("train", "train", "val", "test")  # 2:1:1


def oai_manifest(
    root: Path, visits: Iterable[str] | None = None, protocol: Protocol = "natural", *, seed: int = 0,
    counts: Counts | None = None, unpack_to: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the manifest of an OAI download; see `kneegrade.cohorts.oai` and `manifest_from_readings`.

    Args:
        root: folder that holds tables and films, at any depth.
        visits: codes of the visits to read ("00", "01", …); all by default.
        protocol: "paper" or "natural".
        seed: seed of the split.
        counts: numbers for `cohort_summary` are added.
        unpack_to: folder below which films packed as `.tar.gz` are unpacked; None excludes them.

    Raises:
        CohortError: tables or films are missing or invalid.
    """
    counts, root = Counts() if counts is None else counts, root.resolve()
    files = oai_files(root)
    finder = FilmFinder(root, unpack_to, counts)
    readings, films = oai_readings(files, visits, counts), oai_films(files, finder)
    readings = add_joint_space_widths(readings, files, counts)
    films = films.rename(columns={"subject_id": "film_subject"})
    merged = readings.merge(films, on="barcode", how="left", validate="many_to_one")
    other_person = merged["film_subject"].notna() & (merged["film_subject"] != merged["subject_id"])
    counts.add("knees whose barcode belongs to a film of another person", int(other_person.sum()))
    counts.add("knees without a barcode", int((merged["barcode"] == "").sum()))
    unlisted = merged["film_subject"].isna() & (merged["barcode"] != "")
    counts.add("knees whose barcode is not in any list of films", int(unlisted.sum()))
    not_on_disk = merged["film_subject"].notna() & merged["path"].isna()
    counts.add("knees whose film is listed but not on disk", int(not_on_disk.sum()))
    merged["image_path"] = merged["path"].where(~other_person)
    if merged["image_path"].isna().all():
        raise _no_film(files, merged, films, finder)
    readings = merged.drop(columns=["film_subject", "path"])
    return manifest_from_readings(readings, "oai", protocol, seed=seed, counts=counts)


def _no_film(files: OaiFiles, merged: pd.DataFrame, films: pd.DataFrame, finder: FilmFinder) -> CohortError:
    """The error that no reading has a film: the numbers after each step, and a path that was looked for."""
    listed = merged["film_subject"].notna()
    packed = finder.counts.by_name[PACKED_EXCLUDED]
    steps = [
        f"{len(merged)} knees were read. Tables of readings: {len(files.readings)}.",
        f"{int((merged['barcode'] != '').sum())} of them have a barcode, such as {_example(merged['barcode'])}.",
        f"{len(films)} bilateral knee films are in the lists of films "
        f"({', '.join(sorted({path.name for path in files.film_lists}))}), with barcodes such as "
        f"{_example(films['barcode'])}.",
        f"{int(listed.sum())} knees have a barcode that is in these lists, "
        f"{int((listed & (merged['film_subject'] == merged['subject_id'])).sum())} of them for the same subject.",
        f"{int(films['path'].notna().sum())} of the listed films are on disk"
        + (f", {packed} are packed (use --unpack-to)." if packed else "."),
    ]
    if finder.first_missing is not None:
        steps.append(f"A path that was looked for: {finder.first_missing}.")
    return CohortError("No reading has a film on disk.\n" + "\n".join(f"- {step}" for step in steps))


def _example(barcodes: pd.Series) -> str:
    return next((barcode for barcode in barcodes if barcode), "none")


def most_manifest(
    root: Path, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """Return the manifest of a MOST download; see `kneegrade.cohorts.most` and `manifest_from_readings`.

    Args:
        root: folder that holds the table and the films, at any depth.
        protocol: "paper" or "natural".
        seed: seed of the split.
        counts: numbers for `cohort_summary` are added.

    Raises:
        CohortError: the table or the films are missing or invalid.
    """
    counts, root = Counts() if counts is None else counts, root.resolve()
    films, readings = most_films(root, counts), most_readings(root, counts)
    merged = readings.merge(films, on=["subject_id", "visit"], how="left", validate="many_to_one")
    if merged["path"].isna().all():
        visits = ", ".join(map(str, sorted(films["visit"].unique())))
        raise CohortError(
            f"No reading has a film: {len(readings)} knees were read, of subjects such as "
            f"{readings['subject_id'].iloc[0]}, and {len(films)} films were found, of subjects such as "
            f"{films['subject_id'].iloc[0]} at the visits (months) {visits}."
        )
    merged = merged.rename(columns={"path": "image_path"})
    return manifest_from_readings(merged, "most", protocol, seed=seed, counts=counts)


def phantom_manifest(
    root: Path, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """Return the manifest of films that `kneegrade phantom` wrote, with landmarks; people are split as in a study.

    Knees with a joint replacement have no grades. A network that was trained on phantoms knows their appearance: its
    metrics on other phantoms say nothing about real knees.

    Args:
        root: folder with `truth.parquet`.
        protocol: "paper" or "natural".
        seed: seed of the split.
        counts: numbers for `cohort_summary` are added.

    Raises:
        CohortError: the folder contains no phantom films.
    """
    table_file = root / TABLE_FILE
    if not table_file.is_file():
        raise CohortError(f"{root} contains no {TABLE_FILE}. Create it with `kneegrade phantom --films -o {root}`.")
    table = pd.read_parquet(table_file)
    if (table["image_path"] == ROI_FILE).any():
        raise CohortError(
            f"{root} contains single-knee crops (--rois). Expected whole films; create them with "
            "`kneegrade phantom --films`."
        )
    counts = Counts() if counts is None else counts
    counts.add("knees with a joint replacement, without grades", int(table["kl"].isna().sum()))
    films = [root.resolve() / image for image in table["image_path"]]
    table["image_path"] = [str(film) if film.is_file() else None for film in films]
    readings = table.drop(columns=["split", "source", "knee_id"])
    return manifest_from_readings(readings, "phantom", protocol, seed=seed, counts=counts)


def csv_manifest(
    path: Path, mapping: Path | None = None, protocol: Protocol = "natural", *, seed: int = 0,
    counts: Counts | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the manifest of a user's own table; see `kneegrade.cohorts.own_tables` and `manifest_from_readings`.

    Args:
        path: text or `.sas7bdat` table; its stem is the name of the cohort.
        mapping: YAML file with the names of the columns; None expects the names of a manifest.
        protocol: "paper" or "natural".
        seed: seed of the split; not used if the table has a split.
        counts: numbers for `cohort_summary` are added.

    Raises:
        CohortError: the table or the mapping is invalid.
    """
    counts = Counts() if counts is None else counts
    readings = own_table_readings(path, load_column_map(mapping), counts)
    return manifest_from_readings(readings, path.stem, protocol, seed=seed, counts=counts)


def manifest_from_readings(
    readings: pd.DataFrame, source: str, protocol: Protocol = "natural", *, seed: int = 0, counts: Counts | None = None
) -> pd.DataFrame:
    """Return the manifest of the readings that have an `image_path`.

    Protocols:

    - "paper": knees with all seven grades are labelled. All others lose the grades they have; those of people in the
      training split are kept as unlabelled knees, those of people in validation or test are excluded.
    - "natural": every knee is included with every grade it has.

    People are split 2:1:1 into train, val and test, stratified by their worst KL grade, whether or not their films are
    on disk. With "paper" only people with a labelled knee are split; the others go to train. The split depends on the
    protocol and on the visits.

    Args:
        readings: readings (see `kneegrade.cohorts.readings`) with `image_path`, missing where there is no film, and
            optionally `split`.
        source: name of the cohort.
        protocol: "paper" or "natural".
        seed: seed of the split; not used if the readings have a split.
        counts: numbers of excluded knees are added.

    Raises:
        CohortError: no reading has the grades that the protocol needs, or no reading has a film.
    """
    counts = Counts() if counts is None else counts
    table, names = readings.reset_index(drop=True), list(TARGET_NAMES)
    labelled = table[names].notna().all(axis=1) if protocol == "paper" else table[names].notna().any(axis=1)
    if not labelled.any():
        required = "all seven grades" if protocol == "paper" else "a grade"
        raise CohortError(f"None of the {len(table)} readings has {required}.")
    if "split" not in table.columns:
        table["split"] = table["subject_id"].map(split_by_subject(table[labelled], seed)).fillna("train")
    if protocol == "paper":
        table.loc[~labelled, names] = pd.NA
        excluded = ~labelled & (table["split"] != "train")
        counts.add("knees without all seven grades in validation or test, excluded", int(excluded.sum()))
        table = table[~excluded]
    has_film = table["image_path"].notna()
    counts.add("knees without a film, excluded", int((~has_film).sum()))
    if not has_film.any():
        raise CohortError(f"None of the {len(table)} readings has a film on disk. Check barcodes, paths and folders.")
    table = table[has_film].reset_index(drop=True)
    months = table["visit"].astype(int).map("{:03d}".format)
    people = table["subject_id"].str.removeprefix(f"{source}-")
    table["knee_id"] = source + "-" + people + "-" + months + "-" + table["side"]
    repetition = table.groupby("knee_id").cumcount()
    table.loc[repetition > 0, "knee_id"] += "-" + (repetition[repetition > 0] + 1).astype(str)
    table["source"] = source
    check_manifest(table)
    return table


def split_by_subject(table: pd.DataFrame, seed: int = 0) -> dict[str, str]:
    """Return subject → "train", "val" or "test", 2:1:1 in each stratum of the worst KL grade (-1 if never read)."""
    worst = table.assign(kl=table["kl"].astype("Int64").fillna(-1)).groupby("subject_id")["kl"].max()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(worst))
    ranked = worst.iloc[order].sort_values(kind="stable")  # one stratum after the other, shuffled within
    return {subject: SPLIT_CYCLE[i % len(SPLIT_CYCLE)] for i, subject in enumerate(ranked.index)}


def cohort_summary(table: pd.DataFrame, counts: Counts) -> str:
    """Return a summary of a manifest as Markdown: knees by visit and split, grades, and special cases.

    Args:
        table: the manifest.
        counts: numbers collected while the manifest was built; reasons for missing grades are named
            "<grade>: <reason>".
    """
    names = list(TARGET_NAMES)
    complete = int(table[names].notna().all(axis=1).sum())
    graded = int(table[names].notna().any(axis=1).sum())
    parts = [
        f"{len(table):,} knees of {table['subject_id'].nunique():,} subjects on {table['image_path'].nunique():,} "
        f"films: {complete:,} with all seven grades, {graded - complete:,} with some grades, "
        f"{len(table) - graded:,} without grades.",
        _knees_by_visit(table),
        _grade_distribution(table),
        _special_cases(counts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _knees_by_visit(table: pd.DataFrame) -> str:
    """Return a Markdown table of the number of knees by visit and split."""
    visits = table["visit"] if "visit" in table.columns else pd.Series(0, index=table.index)
    counted = pd.crosstab(visits, table["split"])
    rows = [f"| {visit} | " + " | ".join(f"{number:,}" for number in row) + " |" for visit, row in
            zip(counted.index, counted.to_numpy(), strict=True)]  # fmt: skip
    header = "| visit (months) | " + " | ".join(counted.columns) + " |"
    return "\n".join(["### Knees by visit and split", "", header, "|---" * (len(counted.columns) + 1) + "|", *rows])


def _grade_distribution(table: pd.DataFrame) -> str:
    """Return a Markdown table of the frequency of every grade, with that of the paper's cohort."""
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
            paper = PAPER_COUNTS[target.name]
            cells.append(f"{int((read == grade).sum()):,} ({share:.1%}; paper {paper[grade] / sum(paper):.1%})")
        rows.append(f"| {grade} | " + " | ".join(cells) + " |")
    missing = "| missing | " + " | ".join(f"{int(table[name].isna().sum()):,}" for name in TARGET_NAMES) + " |"
    return "\n".join(["### Grades, compared with Table 1 of the paper", "", header, "|---" * 8 + "|", *rows, missing])


def _special_cases(counts: Counts) -> str:
    """Return a Markdown list of the counted special cases, "" if there are none."""
    if not counts.by_name:
        return ""
    lines = [f"- {name}: {number:,}" for name, number in sorted(counts.by_name.items())]
    return "\n".join(["### Rows read, special cases and missing grades", "", *lines])
