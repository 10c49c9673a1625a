"""Joint space of a store's knees by the likeliest soft grade of narrowing: of its landmarks, or as a locator sees it.

    python benchmarks/joint_lines.py STORE [--weights WEIGHTS] [--number 110]

Prints, as JSON, medians in mm, were every tibia 80 mm wide, over training knees whose soft grade is at least 0.8 sure
(`--number`: at most so many per grade, seed 0), beside the medians of the published table.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from kneegrade.anatomy.joint_space import joint_space_width
from kneegrade.anatomy.roi import pose_of
from kneegrade.learning.joint_lines import phantom_locator, seen_outlines
from kneegrade.learning.store import load_stores
from kneegrade.schema import TARGETS

USUAL_WIDTH_MM, SURE, CHUNK = 80.0, 0.8, 32
TABLE = {"medial": "medial minimum JSW mm | JSN medial", "lateral": "lateral JSW at x=0.825 mm | JSN lateral"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--weights", type=Path, help="a detector's; else the store's own landmarks")
    parser.add_argument("--number", type=int)
    arguments = parser.parse_args()
    store, generator = load_stores((arguments.store,)), np.random.default_rng(0)
    network = None if arguments.weights is None else phantom_locator(arguments.weights)
    published = json.loads(files("kneegrade").joinpath("data/joint_space_by_grade.json").read_text("utf-8"))
    result = {}
    for side in ("medial", "lateral"):
        target = next(t for t in TARGETS if t.name == f"jsn_{side}")
        chance = store.targets[:, target.one_hot]
        for grade in range(4):
            there = (store.split == "train") & (chance.argmax(1) == grade) & (chance.max(1) >= SURE)
            rows = generator.permutation(np.flatnonzero(there))[: arguments.number]
            outlines = []
            for part in np.array_split(rows, -(-len(rows) // CHUNK)):
                points = store.landmarks_px[part]
                seen = (
                    points.astype(np.float64) if network is None else seen_outlines(network, store.images[part], points)
                )
                outlines += list(seen)
            mm = [getattr(joint_space_width(p), side) / pose_of(p).width * USUAL_WIDTH_MM for p in outlines]
            result[f"{target.name} {grade}"] = {
                "knees": len(rows), "median": round(float(np.median(mm)), 2), "sd": round(float(np.std(mm)), 2),
                "table": published[f"{TABLE[side]} {grade}"][5],
            }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
