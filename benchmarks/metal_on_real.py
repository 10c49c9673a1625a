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

from kneegrade.training.augmentation import identity_params
from kneegrade.training.batches import CropBatches
from kneegrade.training.dataset import load_datasets
from kneegrade.uncertainty import load_quality_control
from kneegrade.uncertainty.implant_network import implant_input
from kneegrade.weights import load_weights, shipped_path

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--sheets", type=Path, required=True)
    parser.add_argument("--number", type=int, default=48)
    options = parser.parse_args()
    held = load_weights(shipped_path("grader"), "grader")
    gate, store = load_quality_control(held), load_datasets((options.store,))
    regions = CropBatches(store, held.description["model"]["roi_px"])
    parts = np.array_split(np.arange(len(store)), max(1, len(store) // BATCH))
    pictures = np.stack(
        [implant_input(roi[0].numpy()) for rows in parts for roi in regions.batch(rows, identity_params(len(rows))).roi]
    )
    metal = gate.implant_network.probability(pictures)
    for split in np.unique(store.split):
        rows = np.flatnonzero(store.split == split)
        rows = rows[np.argsort(-metal[rows])]
        print(f"{split}: {int((metal[rows] > float(gate.implant_limit)).sum())} of {len(rows)} above the limit")
        tiles = [(f"{metal[row]:.2f}", Image.fromarray(pictures[row])) for row in rows[: options.number]]
        write_sheets(options.sheets, split, tiles, columns=8)


if __name__ == "__main__":
    main()
