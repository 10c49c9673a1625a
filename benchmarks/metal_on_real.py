"""In which knees of a store the shipped gate sees metal: counts by split, and sheets of the likeliest to look at.

    python benchmarks/metal_on_real.py cache/store-chen2018-shipped --sheets metal [--number 48]

Sheets go to a folder: the likeliest of each split, most likely first, with their probability. Real knees: never commit
them.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sheets import write_sheets

from kneegrade.learning.augmentation import no_changes
from kneegrade.learning.regions import Regions
from kneegrade.learning.store import load_stores
from kneegrade.uncertainty import load_gate
from kneegrade.uncertainty.metal import small_picture
from kneegrade.weights import load_weights, shipped_path

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--sheets", type=Path, required=True)
    parser.add_argument("--number", type=int, default=48)
    options = parser.parse_args()
    held = load_weights(shipped_path("grader"), "grader")
    gate, store = load_gate(held), load_stores((options.store,))
    regions = Regions(store, held.description["model"]["roi_px"])
    parts = np.array_split(np.arange(len(store)), max(1, len(store) // BATCH))
    pictures = np.stack(
        [small_picture(roi[0].numpy()) for rows in parts for roi in regions.batch(rows, no_changes(len(rows))).roi]
    )
    metal = gate.metal_network.probability(pictures)
    for split in np.unique(store.split):
        rows = np.flatnonzero(store.split == split)
        rows = rows[np.argsort(-metal[rows])]
        print(f"{split}: {int((metal[rows] > float(gate.implant_limit)).sum())} of {len(rows)} above the limit")
        tiles = [(f"{metal[row]:.2f}", Image.fromarray(pictures[row])) for row in rows[: options.number]]
        write_sheets(options.sheets, split, tiles, columns=8)


if __name__ == "__main__":
    main()
