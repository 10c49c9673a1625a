"""`write_tables`: every table and figure that finished runs allow, and the list of all runs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from kneegrade.evaluation.beyond_tables import beyond_table
from kneegrade.evaluation.bootstrap import SubjectBootstrap, interval
from kneegrade.evaluation.finished_runs import Row, load_runs, rows_of
from kneegrade.evaluation.paper_tables import (
    SUPPLEMENT_1,
    SUPPLEMENT_2,
    TABLE_2,
    ablation,
    by_grade,
    label_shares,
    table_1,
)
from kneegrade.evaluation.paper_values import incoherence_figures
from kneegrade.evaluation.table_formats import write_table
from kneegrade.files import replacing
from kneegrade.progress import Progress


def write_tables(
    directories: Sequence[Path], output: Path, replicates: int = 1000,
    progress: Progress | None = None,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Write Tables 1 to 4, the supplement's, `beyond`, each as Markdown, CSV and LaTeX, and `all_runs.csv`.

    A table of which no row was run is left out. `all_runs.csv` has a line per run, grade and metric: no run is left
    out.

    Args:
        directories: run folders, or folders of such.
        output: made if it is not there.
        replicates: bootstrap samples behind the intervals.
        progress: called with (done, all) while rows are decoded, which takes longest.

    Returns:
        The files written, and a sentence for every folder that is left out.

    Raises:
        UsageError: no finished run, runs that were scored on different knees, or two of one name that differ in more
            than the seed.
    """
    runs, left_out = load_runs(directories)
    output.mkdir(parents=True, exist_ok=True)
    bootstrap = SubjectBootstrap(runs[0].test.subject, replicates)
    rows = rows_of(runs, bootstrap)
    three, two = ("accuracy", "rmse", "kappa"), ("accuracy", "rmse")
    tables = (
        table_1(runs),
        by_grade(rows, TABLE_2, "table2", "Table 2: comparison with baselines", three),
        ablation(rows),
        label_shares(rows),
        by_grade(rows, SUPPLEMENT_1, "supplement1", "Supplement, Table 1: temperature τ", two),
        by_grade(rows, SUPPLEMENT_2, "supplement2", "Supplement, Table 2: auxiliary regression head", two),
        beyond_table(rows, bootstrap, progress),
    )
    written = [path for table in tables if table is not None for path in write_table(table, output)]
    return [*written, *incoherence_figures(output), _all_runs(rows, output / "all_runs.csv")], left_out


def _all_runs(rows: Mapping[str, Row], path: Path) -> Path:
    lines = [
        (
            run.directory.name,
            row.name,
            run.recipe["train"]["seed"],
            grade,
            metric,
            *(f"{v:.6g}" for v in interval(values)),
        )
        for row in rows.values()
        for run, scores in zip(row.runs, row.by_run, strict=True)
        for grade, metrics in scores.items()
        for metric, values in metrics.items()
    ]
    with replacing(path) as stream:
        csv.writer(stream).writerows([("run", "recipe", "seed", "grade", "metric", "value", "lower", "upper"), *lines])
    return path
