"""`write_tables`: all tables and figures that a set of finished runs allows, and the list of all runs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from kneegrade.coherence import incoherence_loss
from kneegrade.evaluation.beyond_tables import beyond_table
from kneegrade.evaluation.bootstrap import SubjectBootstrap, interval
from kneegrade.evaluation.finished_runs import RecipeScores, load_runs, scores_by_recipe
from kneegrade.evaluation.paper_tables import (
    SUPPLEMENT_1,
    SUPPLEMENT_2,
    TABLE_2,
    ablation_table,
    by_grade_table,
    grade_distribution_table,
    label_share_table,
)
from kneegrade.evaluation.table_formats import write_table
from kneegrade.files import make_directory, replacing
from kneegrade.imaging.own_pictures import KEYWORD, TEXT
from kneegrade.progress import Progress
from kneegrade.spreadsheet_cells import escape_formula

TAUS = (0.25, 0.5, 0.75, 1.0, 1.5)


def write_tables(
    directories: Sequence[Path], output: Path, replicates: int = 1000,
    progress: Progress | None = None,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Writes the tables and figures of the paper and its supplement, `beyond` and `all_runs.csv`.

    Each table is written as Markdown, CSV and LaTeX. A table without any run is left out. `all_runs.csv` has a line per
    run, grade and metric, for all runs.

    Args:
        directories: run folders, or folders of run folders.
        output: folder, created if missing.
        replicates: number of bootstrap samples for the intervals.
        progress: called with (done, total) while rows are decoded, the slowest step.

    Returns:
        The files written, and a sentence for every folder that is left out.

    Raises:
        UsageError: no finished run, runs that were scored on different knees, or two runs of one name that differ in
            more than the seed.
    """
    runs, left_out = load_runs(directories)
    make_directory(output)
    bootstrap = SubjectBootstrap(runs[0].test.subject, replicates)
    rows = scores_by_recipe(runs, bootstrap)
    three, two = ("accuracy", "rmse", "kappa"), ("accuracy", "rmse")
    tables = (
        grade_distribution_table(runs),
        by_grade_table(rows, TABLE_2, "table2", "Table 2: comparison with baselines", three),
        ablation_table(rows),
        label_share_table(rows),
        by_grade_table(rows, SUPPLEMENT_1, "supplement1", "Supplement, Table 1: temperature τ", two),
        by_grade_table(rows, SUPPLEMENT_2, "supplement2", "Supplement, Table 2: auxiliary regression head", two),
        beyond_table(rows, bootstrap, progress),
    )
    written = [path for table in tables if table is not None for path in write_table(table, output)]
    return [*written, *incoherence_figures(output), _write_all_runs(rows, output / "all_runs.csv")], left_out


def incoherence_figures(directory: Path) -> list[Path]:
    """Writes the supplement's two figures: the incoherence loss (Eq. 4) and its gradient against g, for each τ.

    Returns:
        The paths of `supplement-figure1.png` and `supplement-figure2.png` in `directory`.
    """
    from matplotlib.figure import Figure

    g = torch.linspace(-20, 20, 801, dtype=torch.float64, requires_grad=True)
    curves = []
    for tau in TAUS:
        loss = incoherence_loss(g, tau)
        (slope,) = torch.autograd.grad(loss.sum(), g)
        curves.append((tau, loss.detach().numpy(), slope.numpy()))
    written = []
    labels = ("incoherence loss", "gradient of the incoherence loss")
    for number, label in enumerate(labels, start=1):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="mixture log-probability g", ylabel=label)
        for tau, *values in curves:
            axes.plot(np.asarray(g.detach()), values[number - 1], label=f"τ = {tau:g}")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        path = directory / f"supplement-figure{number}.png"
        with replacing(path, "wb") as stream:
            figure.savefig(stream, dpi=150, format="png", metadata={KEYWORD: TEXT})
        written.append(path)
    return written


def _write_all_runs(rows: Mapping[str, RecipeScores], path: Path) -> Path:
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
        header = ("run", "recipe", "seed", "grade", "metric", "value", "lower", "upper")
        csv.writer(stream).writerows(map(escape_formula, line) for line in (header, *lines))
    return path
