"""Grades of phantoms by the shipped weights, through the whole corridor, against the grades that they were drawn with.

    kneegrade phantom --rois --implants 0.3 --number 1000 --prevalence paper --seed 92 -o cache/rois-92
    python benchmarks/phantom_grades.py cache/rois-92 --picture docs/images/failures.png

Knees without metal: what is refused and why, accuracy and quadratic kappa of every grade (of those graded, and with the
gate left out). Knees with metal: share refused, by kind. The picture shows where it fails worst.
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--number", type=int, help="of knees, the first ones; all by default")
    options = parser.parse_args()
    truth = pd.read_parquet(options.folder / TABLE_FILE, columns=[*TARGET_NAMES, "implant"])[: options.number]
    rois = np.load(options.folder / ROI_FILE, mmap_mode="r")[: options.number]
    grader = Grader("cpu", options.weights)
    gated = [grade(grader, roi) for roi in rois]
    grader = Grader("cpu", options.weights, quality_control=False)
    plain = truth["implant"].isna().to_numpy()
    free = [grade(grader, roi) if p else None for roi, p in zip(rois, plain, strict=True)]
    reasons = pd.Series([k.reason.code if k and k.reason else "none found" if k is None else "graded" for k in gated])
    print(f"{plain.sum()} knees without metal:", (reasons[plain].value_counts() / plain.sum()).round(3).to_dict())
    left = np.array([knee is None or knee.abstain for knee in gated])
    print(f"… of them left to the reader: {left[plain].mean():.3f}")
    for name, knees in (("graded", gated), ("gate left out", free)):
        print(f"{name}: " + scores(knees, truth, plain))
    for kind, rows in truth[~plain].groupby("implant").groups.items():
        refused = np.mean([gated[row] is None or gated[row].grades is None for row in rows])
        print(f"{kind}: {refused:.3f} of {len(rows)} refused")
    if options.picture:
        draw(options.picture, rois, truth, gated)


def grade(grader: Grader, roi: np.ndarray) -> GradedKnee | None:
    """The one knee of a picture, or None."""
    knees = grader.grade(np.asarray(roi)).radiographs[0].knees
    return knees[0] if knees else None


def scores(knees: list[GradedKnee | None], truth: pd.DataFrame, plain: np.ndarray) -> str:
    """Accuracy/kappa per grade and the OARSI means."""
    rows = [row for row, knee in enumerate(knees) if plain[row] and knee is not None and knee.grades is not None]
    found, text = [], []
    for target in TARGETS:
        said = np.array([knees[row].grades[target.name].grade for row in rows])
        own = agreement(truth[target.name].iloc[rows].to_numpy(dtype=np.int64), said, target.classes)
        found.append((own["accuracy"], own["kappa"]))
        text.append(f"{target.name} {own['accuracy']:.3f}/{own['kappa']:.3f}")
    accuracy, kappa = np.mean(found[1:], axis=0)
    return f"{len(rows)} knees, OARSI mean {accuracy:.3f}/{kappa:.3f}; " + ", ".join(text)


def draw(path: Path, rois: np.ndarray, truth: pd.DataFrame, knees: list[GradedKnee | None]) -> None:
    """The worst misses: implants that were graded, sound phantoms that were refused, KL furthest off."""
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
