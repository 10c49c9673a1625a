"""How the shipped detector does on real single-knee crops: predicted landmarks, true sides, its own consistency.

    python benchmarks/landmarks_on_crops.py CHEN2018 SOFT_LABELS [--split val] [--number 200] [--sheets DIR]

CHEN2018 is the unpacked archive, SOFT_LABELS the table of another network's predictions (docs/training.md). Prints, as
JSON, distances in % of the tibial width over articular landmarks: to the predicted ones; between a crop's landmarks and
those of the same crop turned (up to 5°), scaled (5 %), shifted (10 px) and, every second one, mirrored; the share of
true sides; the relative joint space by published KL, and mm (were all tibias 80 mm wide) by the likeliest soft grade of
narrowing; the distance of the least confident tenth and of the others. `--sheets` writes pictures: the 24 least
confident, and 100 at random.
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

USUAL_WIDTH_MM = 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("soft_labels", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--number", type=int, help="a random choice of so many crops (seed 0); all by default")
    parser.add_argument("--sheets", type=Path, help="folder for pictures")
    parser.add_argument("--weights", type=Path, help="a detector's weights instead of the shipped ones")
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
        repeated = again(detector, film, generator, mirror=bool(index % 2))
        if repeated is not None:
            repeats[len(rows) - 1] = repeated
    distance = np.stack([percent(k.landmarks_px, wanted[i]) for k, i in zip(knees, rows, strict=True)])
    consistency = np.stack([percent(points, knees[i].landmarks_px) for i, points in repeats.items()])
    confidence = np.array([k.landmark_confidence for k in knees])
    low = confidence <= np.quantile(confidence, 0.1)
    spaces = [measure(k.outline, None) for k in knees]
    width = {s: np.array([getattr(space, s).value for space in spaces]) for s in ("medial", "lateral")}
    grades = target_distributions(table)[rows]
    kl = table["kl"].to_numpy(dtype=int)[rows]
    result = {
        "crops": len(table), "with_one_knee": len(rows),
        "side_right": round(float(np.mean([k.side == s for k, s in zip(knees, table["side"][rows], strict=True)])), 4),
        "to_the_predicted_percent": spread(distance),
        "equivariance_percent": spread(consistency), "equivariance_missed": len(rows) - len(repeats),
        "confidence": {q: round(float(np.quantile(confidence, q)), 3) for q in (0, 0.01, 0.1, 0.5, 0.9)},
        "least_confident_tenth_percent": spread(distance[low]), "others_percent": spread(distance[~low]),
        "knees_off_by_4_percent_on_average": {
            "least_confident_tenth": int((distance[low].mean(1) > 4).sum()),
            "others": int((distance[~low].mean(1) > 4).sum()),
        },
        "relative_gap_by_kl": {s: [mid(width[s][kl == g]) for g in range(5)] for s in width},
        "mm_by_jsn": {s: by_narrowing(width[s], grades, s) for s in width},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if arguments.sheets:
        write_pictures(arguments.sheets, [table["image_path"][i] for i in rows], knees, films)


def again(
    detector: LandmarkDetector, film: Radiograph, generator: np.random.Generator, mirror: bool
) -> np.ndarray | None:
    """Landmarks of the changed crop, taken back to the crop; None where there is not one knee."""
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
    """Distance of articular points in % of the others' tibial width."""
    return np.linalg.norm(points - others, axis=1)[list(ARTICULAR)] / pose_of(others).width * 100


def spread(distance: np.ndarray) -> dict[str, float]:
    return {"median": mid(distance), "p95": round(float(np.quantile(distance, 0.95)), 3)}


def mid(values: np.ndarray) -> float:
    return round(float(np.median(values)), 4)


def by_narrowing(width: np.ndarray, grades: np.ndarray, side: str) -> list[float | None]:
    """Median mm, were all tibias 80 mm wide, by the likeliest grade of narrowing where that is at least 0.8 likely."""
    target = next(t for t in TARGETS if t.name == f"jsn_{side}")
    chance = grades[:, target.one_hot]
    sure = chance.max(1) >= 0.8
    there = [width[sure & (chance.argmax(1) == grade)] for grade in range(4)]
    return [mid(w * USUAL_WIDTH_MM) if len(w) else None for w in there]


def write_pictures(directory: Path, paths: list[str], knees: list[Knee], films: list[Radiograph]) -> None:
    from sheets import write_sheets

    order = np.argsort([k.landmark_confidence for k in knees])[:24]
    chance = np.random.default_rng(2).permutation(len(knees))[:100]
    for name, chosen in (("least_confident", order), ("random", chance)):
        tiles = []
        for i in chosen:
            title = f"{Path(paths[i]).stem} {knees[i].side} {knees[i].landmark_confidence:.2f}"
            big = Radiograph(np.kron(films[i].pixels, np.ones((2, 2), dtype=np.float32)))
            outline = knees[i].outline.moved(np.array([[2.0, 0, 0.5], [0, 2.0, 0.5]]))
            tiles.append((title, overlay(big.pixels, [(outline, "")], widths=False).resize((420, 420))))
        write_sheets(directory, name, tiles)


if __name__ == "__main__":
    main()
