"""What a cohort turned out to hold, as Markdown: knees by visit and split, grades beside the paper's, oddities."""

import pandas as pd

from kneegrade.cohorts.readings import Counts
from kneegrade.phantom.grades import PAPER_COUNTS
from kneegrade.schema import TARGET_NAMES, TARGETS


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
