"""Agreement and CPU time of runtimes and precisions on the same images, against torch in float32.

    python benchmarks/runtimes.py FOLDER [--number 300] [--settings openvino/float32 torch/bf16]

Prints, as JSON, for each setting: CPU milliseconds an image from file to grades (one thread), the share of knees with
the same seven grades and with the same KL, the share of grades that are equal, and the largest and 99th percentile of
the difference of probabilities and of landmarks in pixels.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np

from kneegrade import Grader
from kneegrade.imaging import find_sources
from kneegrade.results import GradedKnee


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("--number", type=int, default=300, help="images, chosen at random (seed 0)")
    parser.add_argument("--settings", nargs="+", default=["openvino/float32", "torch/bf16"], help="RUNTIME/PRECISION")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".dcm"))
    paths = random.Random(0).sample(paths, min(options.number, len(paths)))
    result, knees = {}, {}
    for setting in ("torch/float32", *options.settings):
        runtime, precision = setting.split("/")
        knees[setting], ms = graded(Grader("cpu", runtime=runtime, precision=precision), paths)
        result[setting] = {"ms": round(ms, 1)} | agreement(knees["torch/float32"], knees[setting])
    print(json.dumps({"images": len(paths), **result}, indent=1))


def graded(grader: Grader, paths: list[Path]) -> tuple[list[list[GradedKnee]], float]:
    """Knees of each image, and CPU milliseconds an image."""
    grader.grade(paths[0])
    start = time.process_time()
    films = [grader.grade_sources(find_sources([path])).radiographs[0] for path in paths]
    return [list(film.knees) for film in films], 1000 * (time.process_time() - start) / len(paths)


def agreement(reference: list[list[GradedKnee]], other: list[list[GradedKnee]]) -> dict[str, float]:
    """Agreement of the knees of the same images; images with another number of knees count as disagreements."""
    found = sum(len(a) != len(b) for a, b in zip(reference, other, strict=True))
    pairs = [pair for x, y in zip(reference, other, strict=True) if len(x) == len(y) for pair in zip(x, y, strict=True)]
    both = [(a.grades, b.grades) for a, b in pairs if a.grades and b.grades]
    equal = np.array([[a[name].grade == b[name].grade for name in a] for a, b in both])
    moved = [np.linalg.norm(a.landmarks_px - b.landmarks_px, axis=1).max() for a, b in pairs]
    shares = [np.abs(np.subtract(a[n].probabilities, b[n].probabilities)).max() for a, b in both for n in a]
    values = {
        "knees": len(pairs), "other_number_of_knees": found,
        "other_status": sum(a.status != b.status for a, b in pairs),
        "all_grades_equal": equal.all(1).mean(), "kl_equal": equal[:, 0].mean(), "grades_equal": equal.mean(),
        "probability_p99": np.quantile(shares, 0.99), "probability_largest": max(shares),
        "landmark_px_p99": np.quantile(moved, 0.99), "landmark_px_largest": max(moved),
    }  # fmt: skip
    return {name: round(float(value), 5) for name, value in values.items()}


if __name__ == "__main__":
    main()
