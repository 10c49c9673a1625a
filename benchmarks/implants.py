"""Detection of metal: false alarms on sound knees of each site, real knees with metal, and drawn total knees.

    python benchmarks/implants.py cache/dataset-chen2018-shipped --manifest cache/chen2018-shipped.parquet \
        --site cache/dataset-second --site cache/dataset-third [--weights FILE] [--sheets DIR]

The datasets are those of `kneegrade dataset`. Real knees with metal are listed in `real_metal.csv`; they were found by
looking at the crops with the highest probability of an earlier network. Total knees are drawn into the crops of split
val (`drawn_arthroplasty`), which no implant network was trained on, as they are and in random processing styles.

With `--sheets`, the sound knees with the highest and the drawn knees with the lowest probability are shown. They are
images of real knees: never commit them.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from drawn_arthroplasty import draw_total_knee
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sheets import write_sheets

from kneegrade.anatomy.geometry import stretch_contrast
from kneegrade.training.dataset import load_datasets, manifest_rows
from kneegrade.training.metal.implant_examples import KneePictures, crop_example, plain_inputs, styled_inputs
from kneegrade.uncertainty import ImplantLimits, ImplantNetwork, load_implants
from kneegrade.uncertainty.implant_network import implant_input
from kneegrade.weights import shipped_path

REAL_METAL = Path(__file__).parent / "real_metal.csv"
DRAWN = 400  # total knees
SHOWN = 48  # knees on a sheet


def real_metal() -> set[str]:
    """Ends of the paths of the real crops with metal."""
    with REAL_METAL.open(encoding="utf-8") as file:
        return {row["path"] for row in csv.DictReader(file)}


def drawn_total_knees(knees: KneePictures, rows: NDArray[np.intp], styled: bool) -> NDArray[np.uint8]:
    """(N, 144, 144) inputs of the implant network of knees with a drawn total knee."""
    inputs = []
    for row in rows.tolist():
        crop, inside, points = crop_example(knees, row, None)
        stretched = stretch_contrast(torch.from_numpy(crop)[None, None], torch.from_numpy(inside)[None, None])
        drawn = draw_total_knee(stretched[0, 0].numpy(), points, np.random.default_rng([7, row])) * inside
        if styled:
            rois, covered = torch.from_numpy(drawn)[None, None], torch.from_numpy(inside)[None, None]
            inputs.append(styled_inputs(rois, covered, torch.Generator().manual_seed(row))[0])
        else:
            inputs.append(implant_input(drawn, inside))
    return np.stack(inputs)


def groups(options: argparse.Namespace) -> Iterator[tuple[str, bool, NDArray[np.uint8]]]:
    """(name, whether metal is shown, inputs) of each line of the table."""
    dataset, table = load_datasets((options.dataset,)), pd.read_parquet(options.manifest)
    paths = ["/".join(Path(path).parts[-3:]) for path in table["image_path"].iloc[manifest_rows(options.dataset)]]
    metal = np.isin(paths, list(real_metal()))
    knees = KneePictures(dataset.images, dataset.landmarks_px, "study")
    held_out = np.flatnonzero(~metal & (dataset.split == "val"))
    yield "study, val, sound", False, plain_inputs(knees.part(held_out))
    for directory in options.site:
        site = load_datasets((directory,))
        yield directory.name, False, plain_inputs(KneePictures(site.images, site.landmarks_px, directory.name))
    yield "study, real metal", True, plain_inputs(knees.part(metal))
    for name, styled in (("drawn total knees", False), ("drawn total knees, styled", True)):
        yield name, True, drawn_total_knees(knees, held_out[: options.drawn], styled)


def line(name: str, probability: NDArray[np.float64], limits: ImplantLimits) -> str:
    """A line of the table, with 95 % intervals (Wilson)."""
    cells = [name, str(len(probability))]
    for limit in (limits.certain, limits.possible):
        above = int((probability > limit).sum())
        interval = binomtest(above, len(probability)).proportion_ci(method="wilson")
        cells.append(f"{above} ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)")
    return f"| {' | '.join(cells)} |"


def report(network: ImplantNetwork, limits: ImplantLimits, options: argparse.Namespace) -> None:
    """Print the table and write the sheets."""
    print(f"certain > {limits.certain:.3f}, possible > {limits.possible:.3f}")
    print("| knees | number | certain metal | certain or possible metal |\n|---|---|---|---|")
    for name, has_metal, inputs in groups(options):
        probability = network.probability(inputs)
        print(line(name, probability, limits), flush=True)
        if options.sheets is not None:
            worst = np.argsort(probability if has_metal else -probability)[:SHOWN]
            tiles = [(f"{probability[row]:.2f}", Image.fromarray(inputs[row])) for row in worst]
            write_sheets(options.sheets, name.replace(", ", "-").replace(" ", "-"), tiles, columns=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--manifest", type=Path, required=True, help="that the dataset was made from")
    parser.add_argument("--site", type=Path, action="append", default=[], help="dataset of sound knees of another site")
    parser.add_argument("--weights", type=Path, help="default: the shipped weights")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="number of total knees")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    options = parser.parse_args()
    report(*load_implants(options.weights or shipped_path("grader")), options)


if __name__ == "__main__":
    main()
