import re

import numpy as np
from simulated_runs import read_csv, simulate

from kneegrade.evaluation import Predictions
from kneegrade.evaluation.paper_values import BY_GRADE, LABELS


def test_table_3_has_our_results_the_papers_and_paired_differences(runs, written):
    rows = read_csv(written / "table3.csv")
    assert rows[0][:3] == ["KPN", "CL", ""]
    ours = next(row for row in rows if row[:3] == ["✓", "✓", "ours"])
    accuracy = [(p.guess()[:, 0] == p.truth()[:, 0]).mean() for p in (
        Predictions.load(runs / f"proposed-seed{seed}" / "predictions-test.parquet") for seed in (0, 1)
    )]  # fmt: skip
    assert ours[3].split(" ± ")[0] == f"{np.mean(accuracy):.3f}"
    assert ["✓", "✓", "paper", "0.727", "0.639", "0.764", "0.561"] in rows
    gain = next(row for row in rows if row[0] == LABELS["proposed"] and row[1] == "minus ResNet-50 (here ResNet-18)")
    assert re.fullmatch(r"\+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", gain[3])
    assert f"**{gain[3]}**" in (written / "table3.md").read_text(encoding="utf-8")


def test_table_2_names_the_trunk_that_was_used_and_has_the_majority_class(written):
    rows = read_csv(written / "table2.csv")
    assert any("ResNet-50 (here ResNet-18)" in row[1] for row in rows)
    assert ["accuracy", "ResNet-50, paper", *(f"{v:.3f}" for v in BY_GRADE["accuracy"]["resnet50"])] in rows
    majority = next(row for row in rows if row[1] == "majority class")
    truth = simulate(200, 1, 0).truth()[:, 0]
    assert majority[2] == f"{np.bincount(truth).max() / 200:.3f}"


def test_table_4_compares_a_fifth_of_the_labels_with_all(written):
    text = (written / "table4.md").read_text(encoding="utf-8")
    assert "| 20 % | ResNet-50 (here ResNet-18) |" in text
    assert "Proposed (KPN + CL) minus ResNet-50 (here ResNet-18) on 100 %" in text
