"""Agreement of the shipped grader with the true grades of phantoms, from the image to the report.

    kneegrade phantom --rois --implants 0.3 --number 1000 --prevalence paper --seed 92 -o cache/rois-92
    python benchmarks/phantom_grades.py cache/rois-92 --picture docs/images/failures.png

Knees without metal: refusals with their reasons, and accuracy and quadratic kappa of every grade (of the graded knees,
and with quality control disabled). Knees with metal: share of refusals by kind of implant. `--picture` writes an image
of the worst failures.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from kneegrade import Grader
from kneegrade.evaluation.metrics import agreement
from kneegrade.phantom.phantom_cohort import ROI_FILE, TABLE_FILE
from kneegrade.results import GradedKnee
from kneegrade.schema import TARGET_NAMES, TARGETS

SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output of `kneegrade phantom --rois`")
    parser.add_argument("--weights", type=Path, help="weights of a grader; default: the shipped weights")
    parser.add_argument("--picture", type=Path, help="PNG file for the worst failures")
    parser.add_argument("--number", type=int, help="number of knees, the first ones; default: all")
    options = parser.parse_args()
    truth = pd.read_parquet(options.folder / TABLE_FILE, columns=[*TARGET_NAMES, "implant"])[: options.number]
    rois = np.load(options.folder / ROI_FILE, mmap_mode="r")[: options.number]
    grader = Grader("cpu", options.weights)
    controlled = [grade(grader, roi) for roi in rois]
    grader = Grader("cpu", options.weights, quality_control=False)
    without_metal = truth["implant"].isna().to_numpy()
    uncontrolled = [grade(grader, roi) if p else None for roi, p in zip(rois, without_metal, strict=True)]
    reasons = pd.Series(
        [k.reason.code if k and k.reason else "no knee found" if k is None else "graded" for k in controlled]
    )
    print(
        f"{without_metal.sum()} knees without metal:",
        (reasons[without_metal].value_counts() / without_metal.sum()).round(3).to_dict(),
    )
    referred = np.array([knee is None or knee.abstain for knee in controlled])
    print(f"… share referred to the reader: {referred[without_metal].mean():.3f}")
    for name, knees in (("graded", controlled), ("without quality control", uncontrolled)):
        print(f"{name}: " + scores(knees, truth, without_metal))
    for kind, rows in truth[~without_metal].groupby("implant").groups.items():
        refused = np.mean([controlled[row] is None or controlled[row].grades is None for row in rows])
        print(f"{kind}: {refused:.3f} of {len(rows)} knees refused")
    if options.picture:
        draw(options.picture, rois, truth, controlled)


def grade(grader: Grader, roi: np.ndarray) -> GradedKnee | None:
    """The graded knee of an image of one knee, or None if no knee is found."""
    knees = grader.grade(np.asarray(roi)).radiographs[0].knees
    return knees[0] if knees else None


def scores(knees: list[GradedKnee | None], truth: pd.DataFrame, without_metal: np.ndarray) -> str:
    """Accuracy and kappa of each grade and the OARSI means, as text."""
    rows = [
        row for row, knee in enumerate(knees) if without_metal[row] and knee is not None and knee.grades is not None
    ]
    found, text = [], []
    for target in TARGETS:
        predicted = np.array([knees[row].grades[target.name].grade for row in rows])
        own = agreement(truth[target.name].iloc[rows].to_numpy(dtype=np.int64), predicted, target.classes)
        found.append((own["accuracy"], own["kappa"]))
        text.append(f"{target.name} {own['accuracy']:.3f}/{own['kappa']:.3f}")
    accuracy, kappa = np.mean(found[1:], axis=0)
    return f"{len(rows)} knees, OARSI mean {accuracy:.3f}/{kappa:.3f}; " + ", ".join(text)


def draw(path: Path, rois: np.ndarray, truth: pd.DataFrame, knees: list[GradedKnee | None]) -> None:
    """Draws the worst failures: graded implants, refused knees without metal, and the largest KL errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    graded = [knee is not None and knee.grades is not None for knee in knees]
    missed = [
        (row, f"{truth['implant'][row]}, graded")
        for row in range(len(rois))
        if graded[row] and truth["implant"].notna()[row]
    ]
    refused = [(row, "no metal, refused:\n" + knees[row].reason.code) for row in range(len(rois))
               if knees[row] is not None and not graded[row] and truth["implant"].isna()[row]]  # fmt: skip
    off = [(abs(knees[row].grades["kl"].grade - int(truth["kl"][row])), row) for row in range(len(rois))
           if graded[row] and truth["implant"].isna()[row]]  # fmt: skip
    worst = [
        (row, f"KL {truth['kl'][row]}, given {knees[row].grades['kl'].grade}") for _, row in sorted(off, reverse=True)
    ]
    chosen = [*missed[:2], *refused[:2]]
    chosen += worst[: SHOWN - len(chosen)]
    figure, axes = plt.subplots(2, SHOWN // 2, figsize=(10, 5.6), layout="constrained")
    for axis, (row, label) in zip(axes.flat, chosen, strict=True):
        axis.imshow(rois[row], cmap="gray")
        axis.set_title(label, fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
