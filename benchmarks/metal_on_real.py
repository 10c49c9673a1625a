"""Metal in real knees according to the shipped quality control: counts by split, and contact sheets for inspection.

    python benchmarks/metal_on_real.py cache/dataset-chen2018-shipped --sheets metal [--number 48]

The sheets show the knees of each split with the highest probability of metal, in descending order, with the probability
as title. They are images of real knees: never commit them.
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
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--sheets", type=Path, required=True, help="folder for the contact sheets")
    parser.add_argument("--number", type=int, default=48, help="number of knees shown per split")
    options = parser.parse_args()
    weights = load_weights(shipped_path("grader"), "grader")
    quality_control, dataset = load_quality_control(weights), load_datasets((options.dataset,))
    crops = CropBatches(dataset, weights.description["model"]["roi_px"])
    parts = np.array_split(np.arange(len(dataset)), max(1, len(dataset) // BATCH))
    images = np.stack(
        [implant_input(roi[0].numpy()) for rows in parts for roi in crops.batch(rows, identity_params(len(rows))).roi]
    )
    metal = quality_control.implant_network.probability(images)
    for split in np.unique(dataset.split):
        rows = np.flatnonzero(dataset.split == split)
        rows = rows[np.argsort(-metal[rows])]
        above = int((metal[rows] > float(quality_control.possible_implant_limit)).sum())
        print(f"{split}: {above} of {len(rows)} knees above the limit of possible metal")
        tiles = [(f"{metal[row]:.2f}", Image.fromarray(images[row])) for row in rows[: options.number]]
        write_sheets(options.sheets, split, tiles, columns=8)


if __name__ == "__main__":
    main()
