"""The tables of the paper and its supplement, ours and the paper's figures row by row, and those that go past it.

A value stands with half its 95 % interval (bootstrap over subjects); a difference with its interval, paired. Rows of
several seeds are means over them.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kneegrade.evaluation.bootstrap import Comparison, Scores, interval
from kneegrade.evaluation.finished_runs import FinishedRun, Row
from kneegrade.evaluation.paper_values import ANTONY, BY_GRADE, COLUMNS, LABELS, SUMMARY
from kneegrade.evaluation.predictions import Predictions
from kneegrade.evaluation.table_formats import Table
from kneegrade.phantom.prevalence import PAPER_COUNTS
from kneegrade.schema import TARGETS

Rows = Mapping[str, Row]
SHORT = ("KL", "JSN-L", "JSN-M", "O-FL", "O-FM", "O-TL", "O-TM", "OARSI")
METRIC_LABELS = {"accuracy": "accuracy", "rmse": "RMSE", "kappa": "κ"}
SUMMARY_COLUMNS = (("kl", "accuracy"), ("kl", "rmse"), ("oarsi_mean", "accuracy"), ("oarsi_mean", "rmse"))
SUMMARY_HEADER = ("KL accuracy", "KL RMSE", "OARSI accuracy", "OARSI RMSE")
TABLE_2 = ("resnet18", "resnet34", "resnet50", "proposed")
TABLE_3 = ("resnet50", "kpn", "cl", "proposed")
SHARES = ("20", "40", "100")
SUPPLEMENT_1 = ("resnet50", "tau-0.25", "proposed", "tau-0.75", "tau-1.0", "tau-1.5")
SUPPLEMENT_2 = ("resnet50", "resnet50-regression", "proposed", "proposed-regression")


def table_1(runs: Sequence[FinishedRun]) -> Table:
    """How often each grade was read in the cohort, beside the paper's."""
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
        "table1", "Table 1: distribution of grades", ("grade", *SHORT[:-1]), tuple(rows), (f"Knees: {sizes}.",)
    )


def by_grade(rows: Rows, names: Sequence[str], slug: str, title: str, metrics: Iterable[str]) -> Table | None:
    """A table of every grade, metric by metric, in the layout of the paper's Table 2; None where no row was run."""
    present = [name for name in names if name in rows]
    if not present:
        return None
    lines: list[tuple[str, ...] | None] = []
    for number, metric in enumerate(metrics):
        lines += [None] if number else []
        papers = BY_GRADE.get(metric, {})
        if slug == "supplement2" and metric in ANTONY:
            original = (f"{ANTONY[metric]:.3f}", *("–",) * (len(COLUMNS) - 1))
            lines.append((METRIC_LABELS[metric], "Antony et al. as they report", *original))
        for name in names:
            if name in rows:
                values = [cell(rows[name].scores, column, metric) for column in COLUMNS]
                lines.append((METRIC_LABELS[metric], described(rows[name]), *values))
            if name in papers:
                lines.append((METRIC_LABELS[metric], f"{LABELS[name]}, paper", *(f"{v:.3f}" for v in papers[name])))
        if metric == "accuracy":
            floor = [cell(rows[present[0]].scores, column, "majority_accuracy", spread=False) for column in COLUMNS]
            lines.append((METRIC_LABELS[metric], "majority class", *floor))
    return Table(slug, title, ("metric", "method", *SHORT), tuple(lines), notes_on(rows, present))


def ablation(rows: Rows) -> Table | None:
    """The paper's Table 3, and what each part changes."""
    present = [name for name in TABLE_3 if name in rows]
    if not present:
        return None
    lines: list[tuple[str, ...] | None] = []
    for name in TABLE_3:
        marks = ("✓" if name in ("kpn", "proposed") else "", "✓" if name in ("cl", "proposed") else "")
        if name in rows:
            lines.append((*marks, "ours", *_summary(rows[name].scores)))
        lines.append((*marks, "paper", *(f"{v:.3f}" for v in SUMMARY[name])))
    lines.append(None)
    pairs = (("resnet50", "kpn"), ("resnet50", "cl"), ("kpn", "proposed"), ("cl", "proposed"), ("resnet50", "proposed"))
    lines += [
        (
            described(rows[second]),
            f"less {described(rows[first])}",
            "Δ",
            *_difference(rows[first].scores, rows[second].scores),
        )
        for first, second in pairs
        if first in rows and second in rows
    ]
    header = ("KPN", "CL", "", *SUMMARY_HEADER)
    return Table("table3", "Table 3: keypoint pooling and coherence", header, tuple(lines), notes_on(rows, present))


def label_shares(rows: Rows) -> Table | None:
    """The paper's Table 4, with the rows that it lacks (either part alone), and what each share gains."""
    names = [_shared(name, share) for name in TABLE_3 for share in SHARES]
    present = [name for name in names if name in rows]
    if not any(name in rows for name in names if name.endswith(("-20", "-40"))):
        return None
    lines: list[tuple[str, ...] | None] = []
    for share in SHARES:
        lines += [None] if lines else []
        for name in TABLE_3:
            key = _shared(name, share)
            if key in rows:
                lines.append((f"{share} %", described(rows[key]), *_summary(rows[key].scores)))
            if key in SUMMARY and name in ("resnet50", "proposed"):
                lines.append((f"{share} %", f"{LABELS[name]}, paper", *(f"{v:.3f}" for v in SUMMARY[key])))
    lines.append(None)
    pairs = [(_shared("resnet50", share), _shared(name, share)) for share in SHARES for name in TABLE_3[1:]]
    pairs += [("resnet50", "proposed-20"), ("resnet50", "proposed-40")]
    lines += [
        (f"{_share(second)} %", f"{described(rows[second])} less {described(rows[first])} on {_share(first)} %",
         *_difference(rows[first].scores, rows[second].scores))
        for first, second in pairs
        if first in rows and second in rows
    ]  # fmt: skip
    header = ("labels", "method", *SUMMARY_HEADER)
    return Table("table4", "Table 4: shares of the labels", header, tuple(lines), notes_on(rows, present))


def described(row: Row) -> str:
    """The method's name, and the trunk where it is not the one that the name says."""
    label, trunk = _label(row.name), row.runs[0].recipe["model"]["trunk"]
    shown = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50"}[trunk]
    return label if shown in label or "ResNet" not in label else f"{label} (here {shown})"


def notes_on(rows: Rows, present: Sequence[str]) -> tuple[str, ...]:
    """How the rows were trained, and on how many knees they are scored."""
    first = rows[present[0]].runs[0]
    kinds = sorted({_conditions(run) for name in present for run in rows[name].runs})
    seeds = sorted({len(rows[name].runs) for name in present})
    subjects = len(np.unique(first.test.subject))
    return (
        f"Scored on {len(first.test):,} knees of {subjects:,} subjects; ± is half the 95 % interval over subjects, "
        "[…] a paired one.",
        f"Runs per row: {', '.join(map(str, seeds))}, averaged. Trained: {'; '.join(kinds)}.",
    )


def _conditions(run: FinishedRun) -> str:
    model, train = run.recipe["model"], run.recipe["train"]
    start = "random start" if model["init"] is None else f"trunk from {run.cohort.get('init', model['init'])}"
    length = f"{train['epochs']} epochs" + (f" of {train['steps_per_epoch']} steps" if train["steps_per_epoch"] else "")
    return f"{model['trunk']}, {model['roi_px']} px, {length}, {start}"


def _shared(name: str, share: str) -> str:
    return name if share == "100" else f"{name}-{share}"


def _share(key: str) -> str:
    return key.rsplit("-", 1)[1] if key.endswith(("-20", "-40")) else "100"


def _label(key: str) -> str:
    return LABELS.get(key) or LABELS.get(key.removesuffix("-20").removesuffix("-40"), key)


def cell(scores: Scores, grade: str, metric: str, spread: bool = True) -> str:
    """A score, with half its interval if asked for; a dash where it cannot be said."""
    if grade not in scores:
        return "–"
    value, low, high = interval(scores[grade][metric])
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f} ± {(high - low) / 2:.3f}" if spread else f"{value:.3f}"


def _summary(scores: Scores) -> list[str]:
    return [cell(scores, grade, metric) for grade, metric in SUMMARY_COLUMNS]


def _difference(first: Scores, second: Scores) -> list[str]:
    return [
        signed(*interval(second[grade][metric] - first[grade][metric])) if grade in first and grade in second else "–"
        for grade, metric in SUMMARY_COLUMNS
    ]


def signed(value: float, low: float, high: float) -> str:
    """A difference with its interval, bold where that leaves out zero."""
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def evaluation_table(scores: Scores, predictions: Predictions) -> Table:
    """One network's metrics by grade, for a terminal."""
    columns = {
        "accuracy": "accuracy", "balanced_accuracy": "balanced", "one_off_accuracy": "one off", "rmse": "RMSE",
        "kappa": "κ", "majority_accuracy": "majority class",
    }  # fmt: skip
    if predictions.sets is not None:
        columns |= {"set_coverage": "set holds", "set_size": "set size"}
    lines = [
        (short, *(cell(scores, grade, metric, metric != "majority_accuracy") for metric in columns))
        for short, grade in zip(SHORT, COLUMNS, strict=True)
        if grade in scores
    ]
    joint = scores["joint"]
    subjects = len(np.unique(predictions.subject))
    notes = [f"{len(predictions):,} knees of {subjects:,} subjects; ± half the 95 % interval."]
    if "kl" in scores:
        value, low, high = interval(joint["auc_kl2"])
        notes.append(f"AUC for KL ≥ 2: {value:.3f} ({low:.3f}–{high:.3f}).")
    rates = (interval(joint[name])[0] for name in ("hard_rule_rate", "empty_cell_rate"))
    notes.append("Seven-tuples that break a hard rule: {:.1%}; in empty cells: {:.1%}.".format(*rates))
    return Table("metrics", "Agreement with the labels", ("grade", *columns.values()), tuple(lines), tuple(notes))


def comparison_table(found: Mapping[str, Comparison]) -> Table:
    """How the second of two networks differs from the first, grade by grade, for a terminal."""
    metrics = ("accuracy", "rmse", "kappa")
    lines = []
    for short, grade in zip(SHORT, COLUMNS, strict=True):
        if grade in found:
            one = found[grade]
            tested = "–" if one.p_value is None else f"{one.only_first}, {one.only_second}; p = {one.p_value:.2g}"
            lines.append((short, *(signed(*one.differences[metric]) for metric in metrics), tested))
    header = ("grade", *(f"Δ {METRIC_LABELS[metric]}" for metric in metrics), "right only in first, second; McNemar")
    note = "Second less first, 95 % interval by paired bootstrap over subjects, bold where it leaves out zero."
    return Table("comparison", "The second against the first", header, tuple(lines), (note,))
