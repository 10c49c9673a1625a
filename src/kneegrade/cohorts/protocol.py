"""From readings and films to a manifest: which knees take part, with which labels, in which split."""

from typing import Literal

import numpy as np
import pandas as pd

from kneegrade.cohorts.manifest import check_manifest
from kneegrade.cohorts.readings import Counts
from kneegrade.errors import CohortError
from kneegrade.schema import TARGET_NAMES

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
