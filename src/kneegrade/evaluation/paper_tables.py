"""Result tables in the layout of the paper and its supplement, with the published results beside ours.

A value is followed by half its 95 % interval (bootstrap over subjects), a difference by its paired 95 % interval. A row
with several seeds is their mean. Two more tables are printed by commands: metrics of one network and the comparison of
two.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kneegrade.evaluation.bootstrap import Comparison, Scores, interval
from kneegrade.evaluation.finished_runs import FinishedRun, RecipeScores
from kneegrade.evaluation.paper_values import ANTONY, BY_GRADE, COLUMNS, LABELS, SUMMARY
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.phantom.prevalence import PAPER_COUNTS
from kneegrade.schema import TARGETS

Rows = Mapping[str, RecipeScores]  # name of a recipe → its row
SHORT_NAMES = ("KL", "JSN-L", "JSN-M", "O-FL", "O-FM", "O-TL", "O-TM", "OARSI")
METRIC_LABELS = {"accuracy": "accuracy", "rmse": "RMSE", "kappa": "κ"}
SUMMARY_COLUMNS = (("kl", "accuracy"), ("kl", "rmse"), ("oarsi_mean", "accuracy"), ("oarsi_mean", "rmse"))
SUMMARY_HEADER = ("KL accuracy", "KL RMSE", "OARSI accuracy", "OARSI RMSE")
TABLE_2 = ("resnet18", "resnet34", "resnet50", "proposed")
TABLE_3 = ("resnet50", "kpn", "cl", "proposed")
LABEL_SHARES = ("20", "40", "100")
SUPPLEMENT_1 = ("resnet50", "tau-0.25", "proposed", "tau-0.75", "tau-1.0", "tau-1.5")
SUPPLEMENT_2 = ("resnet50", "resnet50-regression", "proposed", "proposed-regression")


def grade_distribution_table(runs: Sequence[FinishedRun]) -> Table:
    """Table 1: distribution of the grades in the cohort, beside the paper's."""
    whole = (run.cohort for run in runs if run.recipe["data"]["labelled_share"] == 1)
    cohort = next(whole, runs[0].cohort)
    ours = cohort["grades"]
    rows: list[tuple[str, ...] | None] = []
    for grade in range(5):
        cells = [str(grade)]
        for target in TARGETS:
            if grade < target.classes:
                mine, papers = ours[target.name], PAPER_COUNTS[target.name]
                share = f"{mine[grade] / max(sum(mine), 1):.1%}"
                cells.append(f"{mine[grade]:,} ({share}; paper {papers[grade] / sum(papers):.1%})")
            else:
                cells.append("–")
        rows.append(tuple(cells))
    sizes = ", ".join(f"{name} {number:,}" for name, number in cohort["knees"].items())
    return Table(
        "table1", "Table 1: distribution of grades", ("grade", *SHORT_NAMES[:-1]), tuple(rows), (f"Knees: {sizes}.",)
    )


def by_grade_table(rows: Rows, names: Sequence[str], slug: str, title: str, metrics: Iterable[str]) -> Table | None:
    """Metrics of every grade in the layout of the paper's Table 2, or None if no row was run.

    Args:
        rows: all rows.
        names: rows of this table.
        slug: file name without its suffix.
        title: of the table.
        metrics: groups of rows.
    """
    present = [name for name in names if name in rows]
    if not present:
        return None
    lines: list[tuple[str, ...] | None] = []
    for number, metric in enumerate(metrics):
        lines += [None] if number else []
        papers = BY_GRADE.get(metric, {})
        if slug == "supplement2" and metric in ANTONY:
            original = (f"{ANTONY[metric]:.3f}", *("–",) * (len(COLUMNS) - 1))
            lines.append((METRIC_LABELS[metric], "Antony et al., as reported", *original))
        for name in names:
            if name in rows:
                values = [score_cell(rows[name].scores, column, metric) for column in COLUMNS]
                lines.append((METRIC_LABELS[metric], method_name(rows[name]), *values))
            if name in papers:
                lines.append((METRIC_LABELS[metric], f"{LABELS[name]}, paper", *(f"{v:.3f}" for v in papers[name])))
        if metric == "accuracy":
            floor = [
                score_cell(rows[present[0]].scores, column, "majority_accuracy", with_interval=False)
                for column in COLUMNS
            ]
            lines.append((METRIC_LABELS[metric], "majority class", *floor))
    return Table(slug, title, ("metric", "method", *SHORT_NAMES), tuple(lines), table_notes(rows, present))


def ablation_table(rows: Rows) -> Table | None:
    """Table 3: keypoint pooling and coherence, and the effect of each; None if no row was run."""
    present = [name for name in TABLE_3 if name in rows]
    if not present:
        return None
    lines: list[tuple[str, ...] | None] = []
    for name in TABLE_3:
        marks = ("✓" if name in ("kpn", "proposed") else "", "✓" if name in ("cl", "proposed") else "")
        if name in rows:
            lines.append((*marks, "ours", *_summary_cells(rows[name].scores)))
        lines.append((*marks, "paper", *(f"{v:.3f}" for v in SUMMARY[name])))
    lines.append(None)
    pairs = (("resnet50", "kpn"), ("resnet50", "cl"), ("kpn", "proposed"), ("cl", "proposed"), ("resnet50", "proposed"))
    lines += [
        (
            method_name(rows[second]),
            f"minus {method_name(rows[first])}",
            "Δ",
            *_difference_cells(rows[first].scores, rows[second].scores),
        )
        for first, second in pairs
        if first in rows and second in rows
    ]
    header = ("KPN", "CL", "", *SUMMARY_HEADER)
    return Table("table3", "Table 3: keypoint pooling and coherence", header, tuple(lines), table_notes(rows, present))


def label_share_table(rows: Rows) -> Table | None:
    """Table 4: shares of the labels, or None if no row was run with a part of them.

    Rows for keypoint pooling alone and coherence alone, which the paper does not have, and differences are added.
    """
    names = [_recipe_name(name, share) for name in TABLE_3 for share in LABEL_SHARES]
    present = [name for name in names if name in rows]
    if not any(name in rows for name in names if name.endswith(("-20", "-40"))):
        return None
    lines: list[tuple[str, ...] | None] = []
    for share in LABEL_SHARES:
        lines += [None] if lines else []
        for name in TABLE_3:
            key = _recipe_name(name, share)
            if key in rows:
                lines.append((f"{share} %", method_name(rows[key]), *_summary_cells(rows[key].scores)))
            if key in SUMMARY and name in ("resnet50", "proposed"):
                lines.append((f"{share} %", f"{LABELS[name]}, paper", *(f"{v:.3f}" for v in SUMMARY[key])))
    lines.append(None)
    pairs = [
        (_recipe_name("resnet50", share), _recipe_name(name, share)) for share in LABEL_SHARES for name in TABLE_3[1:]
    ]
    pairs += [("resnet50", "proposed-20"), ("resnet50", "proposed-40")]
    for first, second in pairs:
        if first in rows and second in rows:
            text = f"{method_name(rows[second])} minus {method_name(rows[first])} on {_label_percent(first)} %"
            cells = _difference_cells(rows[first].scores, rows[second].scores)
            lines.append((f"{_label_percent(second)} %", text, *cells))
    header = ("labels", "method", *SUMMARY_HEADER)
    return Table("table4", "Table 4: shares of the labels", header, tuple(lines), table_notes(rows, present))


def method_name(row: RecipeScores) -> str:
    """Name of the method, with the trunk where this is not the one in the name."""
    label, trunk = _label(row.name), row.runs[0].recipe["model"]["trunk"]
    shown = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50"}[trunk]
    return label if shown in label or "ResNet" not in label else f"{label} (here {shown})"


def table_notes(rows: Rows, present: Sequence[str]) -> tuple[str, ...]:
    """Notes below a table: number of test knees, number of runs and training conditions of the rows `present`."""
    first = rows[present[0]].runs[0]
    kinds = sorted({_training_conditions(run) for name in present for run in rows[name].runs})
    seeds = sorted({len(rows[name].runs) for name in present})
    subjects = len(np.unique(first.test.subject))
    return (
        f"Scored on {len(first.test):,} knees of {subjects:,} subjects. ± is half the 95 % bootstrap interval over "
        "subjects; […] is the paired 95 % interval of a difference.",
        f"Runs per row: {', '.join(map(str, seeds))}, averaged. Trained: {'; '.join(kinds)}.",
    )


def _training_conditions(run: FinishedRun) -> str:
    model, train = run.recipe["model"], run.recipe["train"]
    start = "random start" if model["init"] is None else f"trunk from {run.cohort.get('init', model['init'])}"
    length = f"{train['epochs']} epochs" + (f" of {train['steps_per_epoch']} steps" if train["steps_per_epoch"] else "")
    return f"{model['trunk']}, {model['roi_px']} px, {length}, {start}"


def _recipe_name(name: str, share: str) -> str:
    return name if share == "100" else f"{name}-{share}"


def _label_percent(key: str) -> str:
    return key.rsplit("-", 1)[1] if key.endswith(("-20", "-40")) else "100"


def _label(key: str) -> str:
    return LABELS.get(key) or LABELS.get(key.removesuffix("-20").removesuffix("-40"), key)


def score_cell(scores: Scores, grade: str, metric: str, with_interval: bool = True) -> str:
    """A score as text, with half its 95 % interval if requested; a dash where it is undefined."""
    if grade not in scores:
        return "–"
    value, low, high = interval(scores[grade][metric])
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f} ± {(high - low) / 2:.3f}" if with_interval else f"{value:.3f}"


def _summary_cells(scores: Scores) -> list[str]:
    return [score_cell(scores, grade, metric) for grade, metric in SUMMARY_COLUMNS]


def _difference_cells(first: Scores, second: Scores) -> list[str]:
    return [
        difference_cell(*interval(second[grade][metric] - first[grade][metric]))
        if grade in first and grade in second
        else "–"
        for grade, metric in SUMMARY_COLUMNS
    ]


def difference_cell(value: float, low: float, high: float) -> str:
    """A difference with its interval as text, bold where the interval excludes zero."""
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def evaluation_table(scores: Scores, predictions: Predictions) -> Table:
    """Metrics of one network by grade."""
    columns = {
        "accuracy": "accuracy", "balanced_accuracy": "balanced", "one_off_accuracy": "one off", "rmse": "RMSE",
        "kappa": "κ", "majority_accuracy": "majority class",
    }  # fmt: skip
    if predictions.sets is not None:
        columns |= {"set_coverage": "set coverage", "set_size": "set size"}
    lines = [
        (short, *(score_cell(scores, grade, metric, metric != "majority_accuracy") for metric in columns))
        for short, grade in zip(SHORT_NAMES, COLUMNS, strict=True)
        if grade in scores
    ]
    joint = scores["joint"]
    subjects = len(np.unique(predictions.subject))
    notes = [f"{len(predictions):,} knees of {subjects:,} subjects; ± is half the 95 % interval."]
    if "kl" in scores:
        value, low, high = interval(joint["auc_kl2"])
        notes.append(f"AUC for KL ≥ 2: {value:.3f} ({low:.3f}–{high:.3f}).")
    rates = (interval(joint[name])[0] for name in ("hard_rule_rate", "empty_cell_rate"))
    notes.append(
        "Seven-tuples that break a hard rule: {:.1%}; that do not occur in the joint counts: {:.1%}.".format(*rates)
    )
    return Table("metrics", "Agreement with the labels", ("grade", *columns.values()), tuple(lines), tuple(notes))


def comparison_table(found: Mapping[str, Comparison]) -> Table:
    """Differences between two networks by grade, with McNemar's test."""
    metrics = ("accuracy", "rmse", "kappa")
    lines = []
    for short, grade in zip(SHORT_NAMES, COLUMNS, strict=True):
        if grade in found:
            one = found[grade]
            tested = "–" if one.p_value is None else f"{one.only_first}, {one.only_second}; p = {one.p_value:.2g}"
            lines.append((short, *(difference_cell(*one.differences[metric]) for metric in metrics), tested))
    header = ("grade", *(f"Δ {METRIC_LABELS[metric]}" for metric in metrics), "correct only in first, second; McNemar")
    note = "Second minus first with the 95 % interval of a paired bootstrap over subjects; bold where it excludes zero."
    return Table("comparison", "Comparison of two networks", header, tuple(lines), (note,))
