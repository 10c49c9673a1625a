"""Accuracy of the shipped landmark detector on phantom films of a new seed, with all layouts and nuisances.

    python benchmarks/phantom_films.py [--number 60] [--distractors 60] [--seed 778] [--processes 2]

Films are rendered with a pixel spacing of 0.2 to 0.4 mm in the detector plane, log-uniform (`--spacing` fixes it; the
realistic 0.1 to 0.2 mm take seconds per film). Prints JSON, in millimetres of the film plane:

- films on which all knees and sides are correct (a film without a knee must give none), and distractors (films without
  a knee) on which no knee is found;
- distances of articular landmarks from the truth, and the number of knees with a landmark off by 10 mm or more;
- joint space width against the truth: mean absolute error, bias, and the ratio of error to stated error, ideally 1;
- reliability of the point confidence: the mean confidence, and the share of points within 2 % of the tibial width.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from kneegrade.anatomy import LandmarkDetector, measure, refusal
from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.anatomy.landmarks import TOLERANCE
from kneegrade.imaging import read_radiograph
from kneegrade.phantom import FilmOptions, render_film

SPACING_MM = (0.2, 0.4)
detectors: dict[str, LandmarkDetector] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=60, help="number of films with knees")
    parser.add_argument("--distractors", type=int, default=60, help="number of films without a knee")
    parser.add_argument("--seed", type=int, default=778, help="of the phantoms; not a seed of the training")
    parser.add_argument("--spacing", type=float, help="pixel spacing in mm; default: random, 0.2 to 0.4")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    parser.add_argument("--weights", type=Path, help="weights of a detector; default: the shipped weights")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes, initializer=one_thread) as pool:
        films = list(pool.map(partial(evaluate_film, arguments), range(arguments.number), chunksize=4))
        distractors = list(pool.map(partial(evaluate_distractor, arguments), range(arguments.distractors), chunksize=4))
    knees = [knee for film in films for knee in film["knees"]]
    errors = np.stack([knee["error_mm"] for knee in knees])
    result = {
        "films": len(films),
        "knees_and_sides_right": sum(film["right"] for film in films),
        "films_not_right": [i for i, film in enumerate(films) if not film["right"]],
        "distractors": len(distractors),
        "distractors_without_a_knee": sum(distractors),
        "knees": len(knees),
        "articular_error_mm": {
            "median": round(float(np.median(errors)), 3),
            "p95": round(float(np.quantile(errors, 0.95)), 3),
        },
        "knees_with_a_point_off_10_mm": int((errors.max(1) >= 10).sum()),
        "joint_space_mm": {side: widths(knees, side) for side in ("medial", "lateral")},
        "points": reliability(knees),
    }
    print(json.dumps(result, indent=1))


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def detector_of(arguments: argparse.Namespace) -> LandmarkDetector:
    if "one" not in detectors:
        detectors["one"] = LandmarkDetector(arguments.weights)
    return detectors["one"]


def evaluate_film(arguments: argparse.Namespace, index: int) -> dict:
    generator = np.random.default_rng([arguments.seed, index])
    spacing = arguments.spacing or float(np.exp(generator.uniform(*np.log(SPACING_MM))))
    film = render_film(arguments.seed, index, FilmOptions(pixel_spacing_mm=spacing))
    found = accepted(detector_of(arguments), film.pixels)
    right = [knee.side for knee in found] == [knee.side for knee in film.knees]
    knees = []
    for knee, true in zip(found, film.knees, strict=True) if right else ():
        distance = np.linalg.norm(knee.landmarks_px - true.landmarks_px, axis=1)
        space, truth = measure(knee.landmarks, spacing), joint_space_width(true.landmarks_px * spacing)
        knees.append({
            "error_mm": distance[list(ARTICULAR)] * spacing,
            "within": (distance <= TOLERANCE * knee.landmarks.width_px)[knee.landmarks.seen],
            "confidence": knee.landmarks.point_confidence[knee.landmarks.seen],
            "medial": (space.mm(space.medial), truth.medial),
            "lateral": (space.mm(space.lateral), truth.lateral),
        })  # fmt: skip
    return {"right": right, "knees": knees}


def evaluate_distractor(arguments: argparse.Namespace, index: int) -> bool:
    film = render_film(arguments.seed + 1, index, FilmOptions("none", longest_px=700))
    return not accepted(detector_of(arguments), film.pixels)


def accepted(detector: LandmarkDetector, pixels: np.ndarray) -> list:
    knees, _ = detector.find(read_radiograph(pixels))
    return [knee for knee in knees if (refusal(knee) is None or refusal(knee).code != "view")]


def widths(knees: list[dict], side: str) -> dict[str, float]:
    error = np.array([knee[side][0].value - knee[side][1] for knee in knees])
    stated = np.array([knee[side][0].error for knee in knees])
    return {
        "mean_absolute_error": round(float(np.abs(error).mean()), 3),
        "bias": round(float(error.mean()), 3),
        "p95": round(float(np.quantile(np.abs(error), 0.95)), 3),
        "stated_error": round(float(stated.mean()), 3),
        "error_over_stated": round(float(np.sqrt(np.mean((error / stated) ** 2))), 3),
        "within_two_stated": round(float(np.mean(np.abs(error) <= 2 * stated)), 3),
    }


def reliability(knees: list[dict]) -> list[dict[str, float]]:
    stated = np.concatenate([knee["confidence"] for knee in knees])
    within = np.concatenate([knee["within"] for knee in knees])
    rows = []
    for low, high in pairwise((0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.01)):
        in_bin = (stated >= low) & (stated < high)
        if in_bin.any():
            rows.append({"points": int(in_bin.sum()), "stated": round(float(stated[in_bin].mean()), 3),
                         "within": round(float(within[in_bin].mean()), 3)})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
