"""Accuracy and consistency of the shipped landmark detector on real single-knee crops.

    python benchmarks/landmarks_on_crops.py CHEN2018 SOFT_LABELS [--split val] [--number 200] [--sheets DIR]

CHEN2018 is the unpacked archive, SOFT_LABELS the table of another network's predictions
(docs/how-to/train-shipped-weights.md). Prints JSON, distances in % of the tibial width over articular landmarks:

- distance to the landmarks predicted by the other network; - equivariance: distance between a crop's landmarks and
those of the same crop after rotation (up to 5°), scaling (5 %), translation (10 px) and, for every second crop,
mirroring; - share of correct sides; - relative joint space by published KL, and in mm (if all tibias were 80 mm
wide) by the most probable soft grade of joint space narrowing; - distances of the least confident tenth of the knees
and of the others.

`--sheets` writes images: the 24 least confident knees, and 100 random ones.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from kneegrade.anatomy import Knee, LandmarkDetector, measure
from kneegrade.anatomy.geometry import pose_of, sample_affine
from kneegrade.anatomy.landmark_scheme import ARTICULAR
from kneegrade.cohorts import chen2018_manifest, landmark_array, target_distributions
from kneegrade.imaging import Radiograph, read_radiograph
from kneegrade.reporting.landmark_export import overlay
from kneegrade.schema import TARGETS

TIBIA_WIDTH_MM = 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="unpacked folder of the Chen 2018 archive")
    parser.add_argument("soft_labels", type=Path, help="table of soft labels with landmarks")
    parser.add_argument("--split", default="val")
    parser.add_argument("--number", type=int, help="number of crops, chosen at random (seed 0); default: all")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--weights", type=Path, help="weights of a detector; default: the shipped weights")
    arguments = parser.parse_args()
    table = chen2018_manifest(arguments.root, arguments.soft_labels)
    table = table[table["split"] == arguments.split].reset_index(drop=True)
    if arguments.number:
        table = table.loc[np.random.default_rng(0).permutation(len(table))[: arguments.number]].reset_index(drop=True)
    detector, generator = LandmarkDetector(arguments.weights), np.random.default_rng(1)
    wanted = landmark_array(table)
    rows, knees, films, repeats = [], [], [], {}
    for index, path in enumerate(table["image_path"]):
        film = read_radiograph(Path(path))
        found, _ = detector.find(film)
        if len(found) != 1:
            continue
        (knee,) = found
        rows.append(index)
        knees.append(knee)
        films.append(film if arguments.sheets else None)
        repeated = landmarks_after_transform(detector, film, generator, mirror=bool(index % 2))
        if repeated is not None:
            repeats[len(rows) - 1] = repeated
    distance = np.stack([percent(k.landmarks_px, wanted[i]) for k, i in zip(knees, rows, strict=True)])
    consistency = np.stack([percent(points, knees[i].landmarks_px) for i, points in repeats.items()])
    confidence = np.array([k.landmark_confidence for k in knees])
    low = confidence <= np.quantile(confidence, 0.1)
    spaces = [measure(k.landmarks, None) for k in knees]
    width = {s: np.array([getattr(space, s).value for space in spaces]) for s in ("medial", "lateral")}
    grades = target_distributions(table)[rows]
    kl = table["kl"].to_numpy(dtype=int)[rows]
    result = {
        "crops": len(table), "with_one_knee": len(rows),
        "side_right": round(float(np.mean([k.side == s for k, s in zip(knees, table["side"][rows], strict=True)])), 4),
        "to_the_predicted_percent": quantiles(distance),
        "equivariance_percent": quantiles(consistency), "equivariance_missed": len(rows) - len(repeats),
        "confidence": {q: round(float(np.quantile(confidence, q)), 3) for q in (0, 0.01, 0.1, 0.5, 0.9)},
        "least_confident_tenth_percent": quantiles(distance[low]), "others_percent": quantiles(distance[~low]),
        "knees_off_by_4_percent_on_average": {
            "least_confident_tenth": int((distance[low].mean(1) > 4).sum()),
            "others": int((distance[~low].mean(1) > 4).sum()),
        },
        "relative_gap_by_kl": {s: [median(width[s][kl == g]) for g in range(5)] for s in width},
        "mm_by_jsn": {s: by_narrowing(width[s], grades, s) for s in width},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if arguments.sheets:
        write_images(arguments.sheets, [table["image_path"][i] for i in rows], knees, films)


def landmarks_after_transform(
    detector: LandmarkDetector, film: Radiograph, generator: np.random.Generator, mirror: bool
) -> np.ndarray | None:
    """Landmarks of the transformed crop in pixels of the original crop; None unless exactly one knee is found."""
    angle, scale = np.radians(generator.uniform(-5, 5)), 1 + generator.uniform(-0.05, 0.05)
    height, width = film.pixels.shape
    size = max(height, width)
    middle, shift = np.array([width - 1, height - 1]) / 2, generator.uniform(-10, 10, 2)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([-1.0 if mirror else 1.0, 1.0])
    offset = middle + shift - turn @ np.full(2, (size - 1) / 2)
    matrix = torch.from_numpy(np.concatenate([turn, offset[:, None]], axis=1)).float()[None]
    changed, _ = sample_affine(torch.from_numpy(film.pixels)[None, None], matrix, size)
    found, _ = detector.find(Radiograph(changed[0, 0].numpy()))
    return found[0].landmarks_px @ turn.T + offset if len(found) == 1 else None


def percent(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of articular landmarks in % of the tibial width of `others`."""
    return np.linalg.norm(points - others, axis=1)[list(ARTICULAR)] / pose_of(others).width * 100


def quantiles(distance: np.ndarray) -> dict[str, float]:
    return {"median": median(distance), "p95": round(float(np.quantile(distance, 0.95)), 3)}


def median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 4)


def by_narrowing(width: np.ndarray, grades: np.ndarray, side: str) -> list[float | None]:
    """Median mm, if all tibias were 80 mm wide, by the most probable narrowing grade (probability 0.8 or more)."""
    target = next(t for t in TARGETS if t.name == f"jsn_{side}")
    chance = grades[:, target.one_hot]
    sure = chance.max(1) >= 0.8
    there = [width[sure & (chance.argmax(1) == grade)] for grade in range(4)]
    return [median(w * TIBIA_WIDTH_MM) if len(w) else None for w in there]


def write_images(directory: Path, paths: list[str], knees: list[Knee], films: list[Radiograph]) -> None:
    from sheets import write_sheets

    order = np.argsort([k.landmark_confidence for k in knees])[:24]
    chance = np.random.default_rng(2).permutation(len(knees))[:100]
    for name, chosen in (("least_confident", order), ("random", chance)):
        tiles = []
        for i in chosen:
            title = f"{Path(paths[i]).stem} {knees[i].side} {knees[i].landmark_confidence:.2f}"
            big = Radiograph(np.kron(films[i].pixels, np.ones((2, 2), dtype=np.float32)))
            landmarks = knees[i].landmarks.moved(np.array([[2.0, 0, 0.5], [0, 2.0, 0.5]]))
            tiles.append((title, overlay(big.pixels, [(landmarks, "")], widths=False).resize((420, 420))))
        write_sheets(directory, name, tiles)


if __name__ == "__main__":
    main()
