"""Results of the shipped weights on real single-knee crops as files, by default crops that were not used in training.

    python benchmarks/real_crops.py CHEN2018 [--split val] [--number 200] [--soft-labels FILE] [--negatives]

CHEN2018 is the unpacked folder of the Chen 2018 archive. Prints JSON: number of graded crops, and reasons of the
refusals; share of sides that agree with the file name; images per second of the whole call; with soft labels (see
docs/how-to/train-shipped-weights.md) distances of articular landmarks in % of the plateau width; with `--negatives`
how many crops get other grades when they are inverted and saved as PNG. Agreement of the grades with readings: see
`kneegrade evaluate`.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kneegrade import Grader, Report
from kneegrade.anatomy.landmark_scheme import ARTICULAR, TIBIA_PLATEAU_LATERAL, TIBIA_PLATEAU_MEDIAL
from kneegrade.cohorts import chen2018_manifest, landmark_array
from kneegrade.imaging import Source
from kneegrade.schema import TARGET_NAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="unpacked folder of the Chen 2018 archive")
    parser.add_argument("--split", default="val", help="split of the crops")
    parser.add_argument("--number", type=int, help="number of crops, chosen at random (seed 0); default: all")
    parser.add_argument("--soft-labels", type=Path, help="table of soft labels with landmarks")
    parser.add_argument("--weights", type=Path, help="weights of a grader; default: the shipped weights")
    parser.add_argument("--negatives", action="store_true", help="also grade inverted crops")
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
    reasons = Counter(k.reason.code for r in report.radiographs for k in r.knees if k.reason is not None)
    result: dict[str, object] = {
        "crops": len(graded),
        "status": {s: sum(r.status == s for r in report.radiographs) for s in ("graded", "not_gradable", "failed")},
        "reasons": dict(reasons),
        "knees_per_crop_other_than_one": sum(len(r.knees) != 1 for r in report.radiographs),
        "images_per_second": round(len(graded) / seconds, 2),
        "inverted_by_pixels": count_warning(report, "inverted_by_pixels"),
        "side_correct": float(np.mean([k.side == s for k, s in zip(knees, table["side"][graded], strict=True)])),
        "side_unknown": float(np.mean([k.side == "unknown" for k in knees])),
    }
    if arguments.soft_labels:
        found = np.stack([k.landmarks_px for k in knees])
        result["landmark_distance_percent"] = landmark_distance(found, table[graded])
    if arguments.negatives:
        inverted = negatives(grader, table)
        result["negatives_graded_otherwise"] = sum(
            a != b for a, b in zip(all_grades(report), all_grades(inverted), strict=True)
        )
    print(json.dumps(result, indent=1))


def count_warning(report: Report, code: str) -> int:
    return sum(any(w.code == code for w in r.warnings) for r in report.radiographs)


def negatives(grader: Grader, table: pd.DataFrame) -> Report:
    """Report on the inverted crops, saved as files."""
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for number, path in enumerate(table["image_path"]):
            file = Path(folder) / f"{number:05d}.png"
            Image.fromarray(255 - np.asarray(Image.open(path).convert("L"))).save(file)
            sources.append(Source(file.name, file))
        return grader.grade_sources(sources)


def all_grades(report: Report) -> list[list[list[int] | None]]:
    """Seven grades of every knee of every film; None for a refused knee."""
    return [
        [None if k.grades is None else [k.grades[name].grade for name in TARGET_NAMES] for k in r.knees]
        for r in report.radiographs
    ]


def landmark_distance(found: np.ndarray, table: pd.DataFrame) -> dict[str, float]:
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
