"""How the shipped weights do on real single-knee crops, by default those that no network was trained on.

    python benchmarks/real_crops.py CHEN2018 [--split val] [--number 200] [--soft-labels FILE]

CHEN2018 is the unpacked folder of the Chen 2018 archive. Prints, as JSON: how many were graded; KL accuracy, RMSE and
quadratic kappa against the published grade with 95 % intervals (bootstrap over subjects); share of sides that agree
with the file name; images per second of the whole call. With soft labels (see docs/training.md): agreement of the six
OARSI grades with their likeliest label given KL, and the distance of articular landmarks in % of the plateau's width.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from kneegrade import Grader, Report
from kneegrade.anatomy.landmarks import ARTICULAR, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.cohorts import chen2018_manifest, landmark_array, target_distributions
from kneegrade.evaluation import agreement
from kneegrade.imaging import Source
from kneegrade.schema import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--number", type=int, help="a random choice of so many crops (seed 0); all by default")
    parser.add_argument("--soft-labels", type=Path)
    parser.add_argument("--weights", type=Path, help="a grader's weights instead of the shipped ones")
    arguments = parser.parse_args()

    table = chen2018_manifest(arguments.root, arguments.soft_labels)
    table = table[table["split"] == arguments.split].reset_index(drop=True)
    if arguments.number:
        table = table.loc[np.random.default_rng(0).permutation(len(table))[: arguments.number]].reset_index(drop=True)
    grader = Grader(weights=arguments.weights)
    start = time.perf_counter()
    report = grader.grade_sources(Source(Path(p).name, Path(p)) for p in table["image_path"])
    seconds = time.perf_counter() - start

    graded = np.array([r.status == "graded" for r in report.radiographs])
    knees = [next(k for k in r.knees if k.grades) for r in report.radiographs if r.status == "graded"]
    table = table[graded].reset_index(drop=True)
    subjects = table["subject_id"].to_numpy()
    result: dict[str, object] = {
        "crops": len(graded),
        "status": {s: sum(r.status == s for r in report.radiographs) for s in ("graded", "not_gradable", "failed")},
        "knees_per_crop_other_than_one": sum(len(r.knees) != 1 for r in report.radiographs),
        "images_per_second": round(len(graded) / seconds, 2),
        "inverted_by_pixels": count_warning(report, "inverted_by_pixels"),
        "side_correct": float(np.mean([k.side == s for k, s in zip(knees, table["side"], strict=True)])),
        "side_unknown": float(np.mean([k.side == "unknown" for k in knees])),
    }
    distributions = target_distributions(table)
    for index, target in enumerate(TARGETS if arguments.soft_labels else TARGETS[:1]):
        truth = distributions[:, target.one_hot].argmax(1)
        guess = np.array([k.grades[target.name].grade for k in knees])
        result[target.name] = with_intervals(truth, guess, subjects, target.classes)
        if index == 0:
            low = np.array([sum(k.grades["kl"].probabilities[2:]) for k in knees])
            result["kl_confusion"] = np.histogram2d(truth, guess, bins=(range(6), range(6)))[0].astype(int).tolist()
            result["auc_kl2"] = auc(truth >= 2, low)
            result["kl_calibration_error"] = calibration_error(
                truth, np.array([k.grades["kl"].probabilities for k in knees])
            )
    if arguments.soft_labels:
        result["oarsi_mean_kappa"] = float(np.mean([result[t.name]["kappa"][0] for t in TARGETS[1:]]))
        result["landmark_distance_percent"] = landmark_distance(np.stack([k.landmarks_px for k in knees]), table)
    print(json.dumps(result, indent=1))


def count_warning(report: Report, code: str) -> int:
    return sum(any(w.code == code for w in r.warnings) for r in report.radiographs)


def with_intervals(truth: np.ndarray, guess: np.ndarray, subjects: np.ndarray, classes: int) -> dict[str, list[float]]:
    """Each metric as [value, lower, upper]; the interval from 500 bootstrap samples of subjects."""
    generator, names = np.random.default_rng(0), np.unique(subjects)
    rows = {name: np.flatnonzero(subjects == name) for name in names}
    samples = []
    for _ in range(500):
        chosen = np.concatenate([rows[name] for name in generator.choice(names, len(names))])
        samples.append(agreement(truth[chosen], guess[chosen], classes))
    value = agreement(truth, guess, classes)
    bounds = {key: np.nanquantile([s[key] for s in samples], [0.025, 0.975]) for key in value}
    return {key: [round(float(v), 4) for v in (value[key], *bounds[key])] for key in value if key != "n"}


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(positive, score)), 4)


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error of the likeliest class, ten equal bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return round(float(sum(gaps)), 4)


def landmark_distance(found: np.ndarray, table: object) -> dict[str, float]:
    wanted = landmark_array(table)
    width = np.linalg.norm(wanted[:, TIBIA_PLATEAU_MEDIAL] - wanted[:, TIBIA_PLATEAU_LATERAL], axis=-1)
    distance = np.linalg.norm(found - wanted, axis=-1)[:, list(ARTICULAR)] / width[:, None] * 100
    return {
        "median": round(float(np.median(distance)), 3),
        "p95": round(float(np.quantile(distance, 0.95)), 3),
        "worst_knee_mean": round(float(distance.mean(1).max()), 2),
    }


if __name__ == "__main__":
    main()
